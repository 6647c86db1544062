package handler

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// A tcpLoop carries many relays between plain sockets on one goroutine: no
// goroutine, buffer, pipe or timer for a relay at rest. Like the loop of the
// UDP sockets it waits in Go's own poller, which waits for the loop's epoll as
// it does for any descriptor.
type tcpLoop struct {
	mu    sync.Mutex // guards what follows
	slots []slot
	free  []int32
	count int
	poll  *os.File    // the epoll of the run; nil: there is none
	epoll int         // its descriptor
	stop  *time.Timer // ends a run that has had nothing to wait for for a while

	pipes  *pipes      // set once
	inject func(*pair) // has tests fail an event; nil
}

// slot is a place in a loop's table. What waits in the kernel for a relay that
// has ended is told by its turn from what is for the next one.
type slot struct {
	pair *pair
	turn uint32
}

// Events of the two sockets of a relay are told apart by the lowest bit.
func (s slot) id(index int32, which side) uint64 {
	return uint64(s.turn)<<32 | uint64(uint32(index)<<1) | uint64(which)
}

// tcpLinger is how long a loop without relays waits for the next one before its
// run ends: one client after the other would begin and end a run each.
const tcpLinger = 100 * time.Millisecond

// add begins to wait for sockets of a relay that it does not wait for yet.
func (l *tcpLoop) add(p *pair, sides ...side) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.placeLocked(p); err != nil {
		return err
	}
	for _, which := range sides {
		e := &p.ends[which]
		if e.id != 0 {
			continue
		}
		id := l.slots[p.slot].id(p.slot, which)
		if err := watch(l.epoll, unix.EPOLL_CTL_ADD, e.fd, e.events(), id); err != nil {
			return err
		}
		e.id = id
	}
	return nil
}

// placeLocked gives a relay its place in the table, if it has none.
func (l *tcpLoop) placeLocked(p *pair) error {
	if p.slot >= 0 {
		return nil
	}
	if l.poll == nil {
		if err := l.startLocked(); err != nil {
			return err
		}
	}
	if len(l.free) == 0 {
		l.free = append(l.free, int32(len(l.slots)))
		l.slots = append(l.slots, slot{})
	}
	last := len(l.free) - 1
	p.slot = l.free[last]
	l.free = l.free[:last]
	s := &l.slots[p.slot]
	s.pair = p
	s.turn++
	l.count++
	return nil
}

// forget stops waiting for a socket of a relay, the only one it waits for.
func (l *tcpLoop) forget(p *pair, which side) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := &p.ends[which]; e.id != 0 {
		_ = watch(l.epoll, unix.EPOLL_CTL_DEL, e.fd, 0, 0)
		e.id = 0
		l.slots[p.slot].turn++ // the next one is another's, to what is under way
	}
}

func (l *tcpLoop) startLocked() error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(epoll, true) // has package os hand it to the poller
	poll := os.NewFile(uintptr(epoll), "epoll")
	raw, err := poll.SyscallConn()
	if err == nil {
		err = poll.SetDeadline(time.Time{}) // does nothing, but tells whether the poller took it
	}
	if err != nil {
		_ = poll.Close()
		return os.NewSyscallError("epoll", unix.ENOMEM)
	}
	l.poll, l.epoll = poll, epoll
	go l.run(poll, raw) // ends when the epoll is closed: stopIdle does that
	return nil
}

func (l *tcpLoop) remove(p *pair) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(p)
}

func (l *tcpLoop) removeLocked(p *pair) {
	if p.slot < 0 {
		return
	}
	l.slots[p.slot].pair = nil
	l.free = append(l.free, p.slot)
	p.slot = -1
	if l.count--; l.count > 0 {
		return
	}
	if l.stop == nil {
		l.stop = time.AfterFunc(tcpLinger, l.stopIdle)
	} else {
		l.stop.Reset(tcpLinger)
	}
}

// stopIdle ends the run if there is nothing left to wait for. What is added
// from now on begins another.
func (l *tcpLoop) stopIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count == 0 && l.poll != nil {
		_ = l.poll.Close()
		l.poll, l.slots, l.free = nil, nil, nil
		l.pipes.trim()
	}
}

// pairOf is whose event a run has got; nil if it is gone.
func (l *tcpLoop) pairOf(run *os.File, id uint64) *pair {
	index, turn := int(uint32(id)>>1), uint32(id>>32)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.poll != run || l.slots[index].turn != turn {
		return nil
	}
	return l.slots[index].pair
}

// run brings events to their relays until the epoll is closed.
func (l *tcpLoop) run(poll *os.File, raw syscall.RawConn) {
	events := make([]unix.EpollEvent, 256)
	buf := netio.GetBuffer()
	defer buf.Free()
	var waiting, again []*pair // have more to do than one turn allows
	n := 0
	look := func(epoll uintptr) bool {
		n = lookAtEpoll(int(epoll), events)
		return n > 0 || len(again) > 0
	}
	for raw.Read(look) == nil {
		waiting, again = again, waiting[:0]
		done := func(p *pair, more bool) {
			if more && !p.queued {
				p.queued = true
				again = append(again, p)
			}
		}
		for _, event := range events[:n] {
			id := uint64(uint32(event.Pad))<<32 | uint64(uint32(event.Fd))
			if p := l.pairOf(poll, id); p != nil {
				done(p, p.event(id, event.Events, buf))
			}
		}
		for _, p := range waiting {
			p.queued = false
			done(p, p.goOn(buf))
		}
		clear(waiting) // what is over is not held on to
	}
}
