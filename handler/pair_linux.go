package handler

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// side is one of the two sockets of a relay.
type side uint8

const (
	clientSide side = iota
	backendSide
)

// pair carries bytes between a client and its backend on an event loop. It is
// a passive thing that is told of events by whoever meets them, each under mu:
// the loop, the goroutine that hands it over, the wheel, a cut.
type pair struct {
	relay *tcpRelay // set once, as are loop and panicked
	loop  *tcpLoop
	idler

	mu     sync.Mutex // guards what follows
	ends   [2]end     // by side
	halves [2]half    // by the side they come from
	first  reason     // whose end came first
	over   bool

	connecting *connecting // to the backend; nil: no longer, or not here

	queued bool  // has more to do than one turn allowed; the loop's own
	slot   int32 // in the loop; guarded by tcpLoop.mu, which may be taken while mu is held; -1: in none
}

// end is one socket. Events are edge-triggered: what they said holds until a
// system call says otherwise.
type end struct {
	fd     int
	id     uint64 // what the loop's events of it bear; 0: it waits for none
	in     bool   // there may be something to read
	out    bool   // there may be room to write
	hup    bool   // the peer has finished, or worse: read on to the end
	urgent bool   // a read may stop short of what there is, and a splice for good: at urgent data
	broken bool   // it may be worse
	waited bool   // the loop waits for room, too
}

// events are what the loop waits for. It waits for room only once there was
// none: at first there always is.
func (e *end) events() uint32 {
	events := uint32(unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET)
	if e.waited {
		events |= unix.EPOLLOUT
	}
	return events
}

// event takes what the loop has met, unless the socket has left the loop since.
// It says whether there is more to do.
func (p *pair) event(id uint64, events uint32, buf *netio.Buffer) (more bool) {
	defer p.guard()
	p.mu.Lock()
	defer p.mu.Unlock()
	which := side(id & 1)
	e := &p.ends[which]
	if p.over || e.id != id {
		return false
	}
	if p.loop.inject != nil {
		p.loop.inject(p)
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP) != 0 {
		e.in = true
		e.hup = e.hup || events&unix.EPOLLRDHUP != 0
		e.urgent = e.urgent || events&unix.EPOLLPRI != 0
	}
	if p.connecting != nil { // to this one, and it may have spoken already
		return p.connectEventLocked(events, buf)
	}
	if events&unix.EPOLLOUT != 0 {
		e.out = true
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		e.in, e.out, e.hup, e.broken = true, true, true, true
		if p.brokenLocked(which) {
			return false
		}
	}
	return p.moveLocked(buf)
}

// goOn is the turn of a pair that had more to do.
func (p *pair) goOn(buf *netio.Buffer) (more bool) {
	defer p.guard()
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.over && p.moveLocked(buf)
}

// brokenLocked ends the relay if a socket tells of a reset that reading would
// not show: nobody reads it any more, or not yet.
func (p *pair) brokenLocked(which side) bool {
	from, to := &p.halves[which], &p.halves[1-which]
	switch {
	case from.settled && !to.settled: // it had finished; we have not, so this is no orderly end
	case !from.settled && from.holds() > 0 && socketError(p.ends[which].fd) != 0:
	default:
		return false
	}
	p.endLocked(resetBy(which))
	return true
}

func resetBy(which side) reason {
	if which == clientSide {
		return clientReset
	}
	return backendReset
}

func closedBy(which side) reason {
	if which == clientSide {
		return clientClosed
	}
	return backendClosed
}

// moveLocked moves what can be moved, both ways. It says whether there is more.
func (p *pair) moveLocked(buf *netio.Buffer) bool {
	more := false
	for which := range p.halves {
		more = p.moveOneLocked(side(which), buf) || more
		if p.over {
			return false
		}
	}
	return more
}

// settleLocked passes the end of one way on. The second end is the end of all.
func (p *pair) settleLocked(which side) {
	f, back := &p.halves[which], &p.halves[1-which]
	f.settled = true
	f.rest()
	if back.settled {
		p.endLocked(p.first)
		return
	}
	p.first = closedBy(which)
	if p.ends[which].broken {
		// The other direction's write took the reset: a system tells of it once,
		// and what is read after that looks like an orderly end.
		p.endLocked(resetBy(which))
		return
	}
	if finish(p.ends[1-which].fd) != 0 {
		p.endLocked(resetBy(1 - which))
	}
}

func (p *pair) touchLocked() { p.relay.relay.wheel.touch(&p.idler) }
