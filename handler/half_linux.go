package handler

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// This file is how bytes get from one socket of a pair to the other.

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

// How a half is carried. A read that fills at least plenty of the loop's
// buffer, bulkAfter times in a row, is bulk, which is spliced until it runs dry.
const (
	plenty    = 32 << 10
	bulkAfter = 2
	maxTurns  = 8 // system calls of one half before other relays have their turn
)

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
		n, errno := netio.ReadNonblock(from.fd, buf[:])
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
