package handler

import (
	"sync"
	"syscall"

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

// half is one way through a relay. At rest it holds neither buffer nor pipe.
type half struct {
	counter

	pending []byte        // what the other side has no room for yet
	stash   *netio.Buffer // where that lies; nil: in memory that is not the pool's
	pipe    *pipe         // the same, of what is spliced
	bulk    uint8         // how many times in a row there was plenty to read
	spliced int           // how much came since it was taken
	ended   bool          // nothing more comes
	settled bool          // and the other side knows
}

// How a flow is carried. A read that fills at least plenty of the loop's
// buffer, bulkAfter times in a row, is bulk, which is spliced until it runs dry.
const (
	plenty    = 32 << 10
	bulkAfter = 2
	maxTurns  = 8 // system calls of one half before other relays have their turn
)

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

func (p *pair) moveOneLocked(which side, buf *netio.Buffer) (more bool) {
	f, from := &p.halves[which], &p.ends[which]
	for range maxTurns {
		if f.settled || !p.flushLocked(which) || p.over {
			return false
		}
		if f.ended {
			p.settleLocked(which)
			return false
		}
		if !from.in {
			f.rest()
			return false
		}
		if from.urgent {
			f.bulk = 0
			f.rest()
		}
		if f.bulk >= bulkAfter && f.pipe == nil {
			f.pipe, f.spliced = p.loop.pipes.get(), 0
		}
		if f.pipe != nil {
			p.fillLocked(which)
			continue
		}
		n, errno := readNow(from.fd, buf[:])
		switch {
		case n > 0:
			p.touchLocked()
			if n < plenty {
				f.bulk = 0
			} else if f.bulk < bulkAfter {
				f.bulk++
			}
			// Less than was asked for is all there is: epoll(7), question 9.
			from.in = n == len(buf) || from.hup || from.urgent
			p.writeLocked(which, buf[:n])
		default:
			p.nothingLocked(which, errno)
		}
	}
	return true
}

// nothingLocked goes on after a read that brought nothing.
func (p *pair) nothingLocked(which side, errno syscall.Errno) {
	f, from := &p.halves[which], &p.ends[which]
	switch errno {
	case 0:
		f.ended = true
	case unix.EAGAIN:
		from.in = false
	default:
		p.endLocked(resetBy(which))
	}
}

// writeLocked writes what was read, and keeps what there is no room for.
func (p *pair) writeLocked(which side, bytes []byte) {
	f, to := &p.halves[which], &p.ends[1-which]
	n := 0
	if to.out {
		var errno syscall.Errno
		n, errno = writeNow(to.fd, bytes)
		if errno != 0 && errno != unix.EAGAIN {
			p.endLocked(resetBy(1 - which))
			return
		}
		f.add(n)
		if n == len(bytes) {
			return
		}
		p.waitForRoomLocked(to)
	}
	f.stash = netio.GetBuffer()
	f.pending = f.stash[:copy(f.stash[:], bytes[n:])]
}

// flushLocked writes what had no room before. It says whether all of it is gone.
func (p *pair) flushLocked(which side) bool {
	f, to := &p.halves[which], &p.ends[1-which]
	for f.holds() > 0 {
		if !to.out {
			return false
		}
		var n int
		var errno syscall.Errno
		if len(f.pending) > 0 {
			n, errno = writeNow(to.fd, f.pending)
		} else {
			n, errno = splice(f.pipe.read, to.fd, f.pipe.bytes)
		}
		switch {
		case errno == unix.EAGAIN || errno == 0 && n == 0:
			p.waitForRoomLocked(to)
			return false
		case errno != 0:
			p.endLocked(resetBy(1 - which))
			return false
		}
		p.touchLocked()
		f.add(n)
		if len(f.pending) == 0 {
			f.pipe.bytes -= n
		} else if f.pending = f.pending[n:]; len(f.pending) == 0 {
			f.forget()
		}
	}
	return true
}

// waitForRoomLocked notes that a socket takes no more for now.
func (p *pair) waitForRoomLocked(e *end) {
	e.out = false
	if e.waited {
		return
	}
	e.waited = true
	if p.loop != nil && e.id != 0 {
		if watch(p.loop.epoll, unix.EPOLL_CTL_MOD, e.fd, e.events(), e.id) != nil {
			e.out = true // cannot be: the descriptor is in there
		}
	}
}

// fillLocked splices what there is to read into the half's pipe, from where it
// is flushed.
func (p *pair) fillLocked(which side) {
	f, from := &p.halves[which], &p.ends[which]
	n, errno := splice(from.fd, f.pipe.write, pipeSize)
	if n > 0 {
		f.pipe.bytes = n
		f.spliced += n
		p.touchLocked()
		return
	}
	if f.spliced < plenty {
		f.bulk = 0 // no longer worth a pipe
	}
	p.nothingLocked(which, errno)
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

// holds is how many bytes the half has taken and not passed on.
func (f *half) holds() int {
	if len(f.pending) == 0 && f.pipe != nil {
		return f.pipe.bytes
	}
	return len(f.pending)
}

// rest gives back what a flow needs only while it flows.
func (f *half) rest() {
	if f.pipe != nil {
		f.pipe.put()
		f.pipe = nil
	}
}

// drop gives back all of it.
func (f *half) drop() {
	f.rest()
	f.forget()
}

func (f *half) forget() {
	if f.stash != nil {
		f.stash.Free()
	}
	f.pending, f.stash = nil, nil
}
