package stream

import "github.com/async-relay/caddy-relay/internal/netio"

// workspace is what relays use while they have their turn on a goroutine of a loop, one
// after the other. Between turns it holds nothing of a relay. It is used by one goroutine at
// a time.
type workspace struct {
	buf  *netio.Buffer
	pipe *pipe // nil: bytes are copied

	small bool // a small message was moved for this event
	calm  int  // events since the last small message
}

// How many bytes one direction moves before other relays of the loop have their
// turn. Large turns cost less CPU per byte. Small ones keep small messages of other
// relays from waiting, so they apply while the loop carries such messages.
const (
	smallTurn = 256 << 10
	largeTurn = 4 << 20
	// calmEvents is how many events without a small message make the next turns large.
	calmEvents = 256
)

// What is spliced at once is bounded by maxPiece, and by youngPiece for the first youngFlow
// bytes of a direction. That is more than the 4 MiB that the kernel holds for a client that
// never reads (tcp_wmem).
const (
	maxPiece   = pipeSize
	youngPiece = 256 << 10
	youngFlow  = 8 << 20
)

// nextEvent is called before each event.
func (w *workspace) nextEvent() {
	if w.small {
		w.small, w.calm = false, 0
	} else if w.calm < calmEvents {
		w.calm++
	}
}

// bytesPerTurn returns about how many bytes one direction may move in this turn.
func (w *workspace) bytesPerTurn() int {
	if w.small || w.calm < calmEvents {
		return smallTurn
	}
	return largeTurn
}
