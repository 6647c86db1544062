//go:build linux

package stream

import "fmt"

// The model in this file is the table of ends in the package comment, told from
// outside: from what each peer did and saw it derives what the relay may have
// done. It does not know the type ends.

// departure is how a peer has left before the end of the other side's stream.
type departure uint8

const (
	stayed     departure = iota // it read to the end of its stream
	wasReset                    // it was reset
	wasClosed                   // it was closed with nothing unread: a FIN, and a RST if more arrives
	closedFull                  // it was closed with bytes unread, which sends a RST
)

// trace is what one peer of a relay did and saw.
type trace struct {
	sent      int  // bytes that its system took
	finished  bool // it sent a FIN before it departed
	departure departure
	// What the relay's system had acknowledged before the departure.
	acked    int
	finAcked bool

	received    int    // bytes, which were the first ones that the other peer sent
	end         string // of the stream: fin, rst, or else; set if it stayed
	writeFailed bool   // a write or a FIN returned an error, which may have been the reset
	endedBefore bool   // the relay was over before it finished or departed
	ackedInTime int    // bytes that the relay's system had acknowledged before the relay was over
}

// mayFinish reports whether a peer's system may have sent a FIN.
func (p *trace) mayFinish() bool { return p.finished || p.departure == wasClosed }

// finishes reports whether the relay must have received all that a peer sent, and
// its FIN.
func (p *trace) finishes(other *trace) bool {
	switch p.departure {
	case stayed:
		return p.finished
	case wasClosed: // in order if nothing more arrives
		return p.finAcked || p.received == other.sent
	default:
		return p.finAcked
	}
}

// certain returns how many bytes of a peer the relay must have received.
func (p *trace) certain(other *trace) int {
	if p.finishes(other) {
		return p.sent
	}
	return p.acked
}

// run is what happened to a relay.
type run struct {
	peers [2]trace // by side
	end   End
	cut   bool // Cut was called
	idle  bool // the idle timeout can expire
}

// violations returns what contradicts the table of ends.
func (r *run) violations() (list []string) {
	for _, side := range []Side{ClientSide, BackendSide} {
		fail := func(format string, args ...any) {
			list = append(list, map[Side]string{ClientSide: "client: ", BackendSide: "backend: "}[side]+fmt.Sprintf(format, args...))
		}
		r.checkReceiver(side, fail)
	}
	r.checkReason(func(format string, args ...any) { list = append(list, "end: "+fmt.Sprintf(format, args...)) })
	return list
}

// checkReceiver checks what a side has received.
func (r *run) checkReceiver(side Side, fail func(string, ...any)) {
	me, other := &r.peers[side], &r.peers[side.other()]
	delivered := int(r.end.BytesUp)
	if side == ClientSide {
		delivered = int(r.end.BytesDown)
	}
	if delivered < me.received || delivered > other.sent {
		fail("%d bytes counted, %d received, %d sent", delivered, me.received, other.sent)
	}
	if me.departure != stayed {
		return
	}
	// The error of a reset is returned once. If a write has returned it, the
	// stream seems to end with a FIN.
	isFIN, isRST := me.end == fin && !me.writeFailed, me.end == rst
	switch {
	case me.end != fin && me.end != rst:
		fail("stream ended with %q", me.end)
	case isFIN && r.idle && r.end.Reason == IdleTimeout:
		if me.received < other.ackedInTime {
			fail("FIN by the idle timeout after %d bytes, %d were acknowledged", me.received, other.ackedInTime)
		}
	case isFIN && !other.mayFinish():
		fail("FIN, and the other side has not finished")
	case isFIN && me.received != other.sent:
		fail("FIN after %d of %d bytes", me.received, other.sent)
	}
	if r.cut || r.idle {
		return
	}
	switch finishes := other.finishes(me); {
	case finishes && isRST:
		fail("RST, and the other side has finished")
	case finishes && me.writeFailed:
		fail("a write failed, and the other side has finished")
	case finishes && me.endedBefore:
		fail("the relay ended before this side finished")
	case me.received < other.certain(me):
		fail("%d bytes received, %d were acknowledged", me.received, other.certain(me))
	case me.received != delivered:
		fail("%d bytes received, %d counted", me.received, delivered)
	}
}

// checkReason checks the reported reason.
func (r *run) checkReason(fail func(string, ...any)) {
	reason := r.end.Reason
	client, backend := &r.peers[ClientSide], &r.peers[BackendSide]
	possible := map[Reason]bool{
		ClientClosed:  client.mayFinish(),
		BackendClosed: backend.mayFinish(),
		ClientReset:   client.departure != stayed,
		BackendReset:  backend.departure != stayed,
		IdleTimeout:   r.idle,
		Shutdown:      r.cut,
	}
	if !possible[reason] || r.end.Err != nil {
		fail("reason %s, error %v", reason, r.end.Err)
	}
	for _, side := range []Side{ClientSide, BackendSide} {
		me, other := &r.peers[side], &r.peers[side.other()]
		if me.departure != stayed && !me.mayFinish() && other.departure == stayed && !r.cut && !r.idle && reason != side.reset() {
			fail("reason %s, want %s", reason, side.reset())
		}
	}
}
