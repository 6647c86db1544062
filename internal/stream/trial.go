package stream

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// TrialLimits bound a [Trial].
type TrialLimits struct {
	// Keep is how many bytes of a client are kept for the next backend. 0 keeps
	// none: then a backend that fails after the client has sent something ends the
	// relay.
	Keep int
	// FirstByte is how long a backend may take to its first byte after the first
	// bytes of the client. 0 sets no limit.
	FirstByte time.Duration
	// Memory counts the kept bytes of all trials. Above its limit, a client is
	// not tried any longer and stays with its backend.
	Memory *Memory
}

// watchedWithoutKeep is how many bytes a client may send before the first byte of
// the backend until FirstByte does not apply any longer, if Keep is 0.
const watchedWithoutKeep = 64 << 10

// Memory counts bytes against a limit. It may be used by any number of goroutines.
type Memory struct {
	limit int64
	used  atomic.Int64
}

// NewMemory returns a Memory with a limit in bytes.
func NewMemory(limit int64) *Memory { return &Memory{limit: limit} }

// Used returns the number of bytes that are counted.
func (m *Memory) Used() int64 { return m.used.Load() }

// reserve counts n more bytes, unless the limit would be exceeded.
func (m *Memory) reserve(n int) bool {
	if m.used.Add(int64(n)) > m.limit {
		m.used.Add(-int64(n))
		return false
	}
	return true
}

func (m *Memory) release(n int) { m.used.Add(-int64(n)) }

// The errors of [Trial.Try] after which the backend has failed.
var (
	ErrNoFirstByte    = errors.New("no byte within first_byte_timeout")
	ErrClosedTooEarly = errors.New("closed before its first byte")
	ErrResetTooEarly  = errors.New("reset before its first byte")
)

// Other errors of [Trial.Try].
var (
	ErrClientReset = errors.New("client reset its connection")
	ErrTrialEnded  = errors.New("relay was cut")
)

// Trial is a [Mover] for clients that may be sent to several backends, until one
// of them has sent a byte. Until then it keeps what the client has sent, so that
// it can send that to the next backend:
//
//	            Try                  Carry
//	searching <-----> trying --------------> carrying
//	     |   the backend   |                     |
//	     |   has failed    |                     |
//	     +------- Cut -----+---------------------+----> over
//
// A Trial uses two goroutines while it is trying. Another mover carries the bytes
// after it, on an event loop if it can.
type Trial struct {
	client Client // set once, as are rules, wheel, engine and limits
	rules  Rules
	wheel  *Wheel
	engine Engine
	limits TrialLimits

	// The fields below belong to the goroutine that calls Try and Carry, and to
	// the sender while Try runs.
	kept     []byte // that the client has sent, after client.Early
	sent     int    // bytes of client.Early and kept that were sent to the last backend
	lost     int    // bytes that were sent and not kept
	finished bool   // the client has sent a FIN
	passed   bool   // the last backend was sent that FIN, after all bytes
	bound    bool   // the client cannot be sent to another backend
	endsBy   Reason // why the relay ends without a byte of its backend; "": it does not

	mu       sync.Mutex // guards the fields below
	over     bool
	backend  net.Conn // that is tried; nil: none
	reserved int      // bytes of limits.Memory
	mover    Mover    // that carries the bytes; nil before Carry
}

// NewTrial returns a trial. engine makes the mover that carries the bytes after it;
// nil uses goroutines.
func NewTrial(client Client, rules Rules, wheel *Wheel, engine Engine, limits TrialLimits) *Trial {
	return &Trial{client: client, rules: rules, wheel: wheel, engine: engine, limits: limits}
}

// Replayable reports whether the client can be sent to another backend. It is
// called after Try.
func (t *Trial) Replayable() bool { return !t.bound }

// ClientReset implements [Mover].
func (t *Trial) ClientReset() bool {
	return t.client.Socket != nil && netio.PeerStateOf(t.client.Socket).Reset()
}

// Carry implements [Mover]. It is called after Try has returned nil, with the
// connection that Try has returned.
func (t *Trial) Carry(backend net.Conn, totals Totals) {
	sent := t.lost + t.sent
	header := min(t.client.HeaderLen, sent)
	counted := sent - header
	if totals.Up != nil {
		totals.Up.Add(uint64(counted))
	}
	if t.endsBy != "" {
		t.finish(backend, counted)
		return
	}
	client := t.client
	client.Early = append(client.Early, t.kept...)[t.sent:]
	client.HeaderLen -= header
	client.Finished = t.passed
	rules := &rulesAfterTrial{t.rules, int64(counted)}
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		netio.Reset(backend)
		return
	}
	t.releaseLocked()
	if _, plain := backend.(*net.TCPConn); t.engine != nil && plain {
		if mover := t.engine.NewMover(client, rules, t.wheel); mover != nil {
			t.mover = mover
		}
	}
	if t.mover == nil {
		t.mover = NewMover(client, rules, t.wheel)
	}
	mover := t.mover
	t.mu.Unlock()
	t.kept, t.client = nil, Client{} // a relay on an event loop holds neither
	mover.Carry(backend, totals)
}

// finish ends a relay whose backend has sent no byte. Nothing is owed to the client.
func (t *Trial) finish(backend net.Conn, counted int) {
	t.mu.Lock()
	cut := t.over
	t.over = true
	t.releaseLocked()
	t.mu.Unlock()
	switch {
	case cut:
		netio.Reset(backend)
		return
	case t.endsBy == BackendReset:
		netio.Reset(backend)
		t.client.Reset()
	default:
		closeConn(t.closing(backend), backend, func() { netio.Reset(backend) })
		closeConn(closeWithFIN, t.client.Conn, nil)
	}
	t.rules.Ended(End{Reason: t.endsBy, BytesUp: int64(counted)})
}

// closing returns how to close an idle backend: without a FIN if it has not got all
// bytes of the client.
func (t *Trial) closing(backend net.Conn) closing {
	unread := t.client.Socket != nil && some(netio.Unread(t.client.Socket))
	if t.sent < len(t.client.Early)+len(t.kept) || unread || some(netio.Unacknowledged(backend)) {
		return closeWithRST
	}
	return closeWithFIN
}

// Cut implements [Mover].
func (t *Trial) Cut(reason Reason) {
	t.mu.Lock()
	mover, over := t.mover, t.over
	if mover == nil && !over {
		t.over = true
		t.releaseLocked()
		if t.backend != nil {
			netio.Reset(t.backend) // ends Try
		}
	}
	t.mu.Unlock()
	switch {
	case mover != nil:
		mover.Cut(reason)
	case over:
	case reason == Panicked:
		t.client.ResetAfterPanic()
		t.rules.Ended(End{Reason: reason})
	default:
		t.client.Reset()
		t.rules.Ended(End{Reason: reason})
	}
}

// reserveLocked counts n more kept bytes. It returns false if they must not be
// kept.
func (t *Trial) reserveLocked(n int) bool {
	if t.over || !t.limits.Memory.reserve(n) {
		return false
	}
	t.reserved += n
	return true
}

func (t *Trial) releaseLocked() {
	if t.reserved > 0 {
		t.limits.Memory.release(t.reserved)
		t.reserved = 0
	}
}

// rulesAfterTrial adds the bytes that were sent during the trial to those of the
// mover that follows it.
type rulesAfterTrial struct {
	Rules
	sent int64
}

// Ended implements [Rules].
func (r *rulesAfterTrial) Ended(end End) {
	end.BytesUp += r.sent
	r.Rules.Ended(end)
}
