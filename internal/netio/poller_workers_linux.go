package netio

import (
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file has the goroutines of a [Poller]. All wait for the same epoll instance,
// so events go to whichever goroutine is free, and no descriptor belongs to one of
// them. While there is little to do, the leader handles all events: then nothing has
// to be passed to another thread, and none has to be woken, which costs more than
// most events.

// epoll is an epoll instance, and the goroutines that handle its events.
type epoll[T any] struct {
	gated
	file    *os.File        // of number; not in Go's poller
	raw     syscall.RawConn // of file
	wake    *os.File        // of gate
	helpers atomic.Int32    // goroutines of help, from before they start
	calls   atomic.Int32    // those of them that wait for a processor
	idle    []*worker[T]    // what helpers have left; guarded by Poller.mu
}

// worker is what one goroutine of a Poller has. It is used by one goroutine at a time.
type worker[T any] struct {
	run    Run[T]
	events [maxEvents]unix.EpollEvent
	ready  []Ready[T]
	took   time.Duration // about how long it takes to handle an event
	busy   time.Duration // since the goroutine has last waited, or could have yielded
}

const (
	// maxEvents bounds the events of one Turn.
	maxEvents = 256
	// helpFrom is the time from which on a goroutine calls a helper: what its events would
	// take alone. An earlier helper shortens no client's wait while the processors are busy,
	// and costs a fifth more CPU time for short connections.
	helpFrom = time.Millisecond
	// helpFromHeavy is the same for events that take longer than heavy, such as those of
	// bulk data: to wake another thread costs little next to them.
	helpFromHeavy = 200 * time.Microsecond
	heavy         = 50 * time.Microsecond
	// maxBusy is how long a goroutine runs before it lets others run, if the instance is
	// crowded. To yield while a processor is idle would wake it for nothing.
	maxBusy = time.Millisecond
)

// startLocked opens an epoll instance and starts its leader.
func (p *Poller[T]) startLocked() (err error) {
	run, err := p.newRun()
	if err != nil {
		return err
	}
	e, gate, err := openEpoll[T]()
	if err != nil {
		run.End()
		return err
	}
	p.current = e
	go p.lead(e, gate, &worker[T]{run: run}) // ends when StopIfIdle closes the instance
	return nil
}

// openEpoll returns a new instance, with an open gate.
func openEpoll[T any]() (_ *epoll[T], gate syscall.RawConn, err error) {
	e := &epoll[T]{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.number, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("epoll_create1", err)
	}
	e.file = os.NewFile(uintptr(e.number), "epoll")
	if e.gate, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(e.gate, true) // os.NewFile registers only nonblocking descriptors with Go's poller
	e.wake = os.NewFile(uintptr(e.gate), "epoll gate")
	if err = CheckPolled(e.wake); err != nil {
		return nil, nil, err
	}
	if err = e.open(unix.EPOLL_CTL_ADD); err != nil {
		return nil, nil, err
	}
	if e.raw, err = e.file.SyscallConn(); err == nil {
		gate, err = e.wake.SyscallConn()
	}
	return e, gate, err
}

// close ends the goroutines and closes what is open. It does nothing for nil.
func (e *epoll[T]) close() {
	if e == nil {
		return
	}
	for _, f := range []*os.File{e.file, e.wake} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// lead handles events until the instance is closed.
func (p *Poller[T]) lead(e *epoll[T], gate syscall.RawConn, w *worker[T]) {
	defer p.endIdle(e)
	defer w.run.End()
	wait := newWaiter(p.budget)
	defer wait.end()
	n := 0
	poll := func(uintptr) {
		var waited bool
		if n, waited = wait.next(e.gated, w.events[:]); waited {
			w.busy = 0
		}
	}
	ready := func(uintptr) bool { return e.raw.Control(poll) == nil && n > 0 }
	for gate.Read(ready) == nil {
		w.ready = p.resolve(e, w.events[:n], w.ready)
		p.turn(e, w)
	}
}

// help handles the events that another goroutine has left, and more until none is ready.
func (p *Poller[T]) help(e *epoll[T], w *worker[T]) {
	e.calls.Add(-1)
	p.turn(e, w)
	n := 0
	poll := func(number uintptr) { n = epollWaitNonblock(int(number), w.events[:]) }
	for e.raw.Control(poll) == nil && n > 0 {
		w.ready = p.resolve(e, w.events[:n], w.ready)
		p.turn(e, w)
	}
	p.putIdle(e, w)
	e.helpers.Add(-1) // after putIdle, so that there are never more runs than workers
}

// turn handles the events of a worker.
func (p *Poller[T]) turn(e *epoll[T], w *worker[T]) {
	if len(w.ready) == 0 {
		return // all events were those of former owners
	}
	if !p.timed {
		w.run.Turn(w.ready)
		clear(w.ready) // release the owners that ended
		return
	}
	if w.needsHelp(len(w.ready), p.helpFrom) {
		p.callHelp(e, w)
	}
	began := time.Now()
	w.run.Turn(w.ready)
	w.measure(time.Since(began))
	clear(w.ready)
	if w.busy > maxBusy {
		w.busy = 0
		if e.crowded() {
			runtime.Gosched()
		}
	}
}

// needsHelp reports whether n events are too many for one goroutine. from is [helpFrom],
// but in tests.
func (w *worker[T]) needsHelp(n int, from time.Duration) bool {
	turn := time.Duration(n) * w.took
	return turn > from || turn > helpFromHeavy && w.took > heavy
}

// crowded reports whether the goroutines of the instance may have all processors, or a
// helper waits for one. It is not for every turn: GOMAXPROCS locks the scheduler.
func (e *epoll[T]) crowded() bool {
	return e.calls.Load() > 0 || int(e.helpers.Load())+1 >= runtime.GOMAXPROCS(0)
}

// measure records how long a turn took. Because the system may have stopped the thread
// meanwhile, one turn counts little.
func (w *worker[T]) measure(turn time.Duration) {
	w.busy += turn
	each := turn / time.Duration(len(w.ready))
	if w.took > 0 {
		each = min(each, 4*max(w.took, leastTook))
	}
	w.took += (each - w.took) / 8
}

// leastTook is an estimate from which the integers of measure still grow.
const leastTook = time.Microsecond

// callHelp starts a helper with about half of a worker's events, unless there are enough
// helpers. All events of an owner go to the same goroutine.
func (p *Poller[T]) callHelp(e *epoll[T], w *worker[T]) {
	differs := int32(0) // the bits in which the owners' slots differ
	for _, event := range w.ready {
		differs |= event.Token.slot() ^ w.ready[0].Token.slot()
	}
	if differs == 0 {
		return // all events are those of one owner
	}
	bit := differs & -differs // the lowest of them
	if e.helpers.Add(1) >= int32(p.workers) {
		e.helpers.Add(-1)
		return
	}
	helper, err := p.takeIdle(e)
	if err != nil {
		e.helpers.Add(-1)
		return
	}
	helper.ready, helper.took = helper.ready[:0], w.took
	kept := w.ready[:0]
	for _, event := range w.ready {
		if event.Token.slot()&bit == 0 {
			kept = append(kept, event)
		} else {
			helper.ready = append(helper.ready, event)
		}
	}
	clear(w.ready[len(kept):])
	w.ready = kept
	e.calls.Add(1)
	go p.help(e, helper) // returns when no event is ready
}

// takeIdle returns what a helper needs.
func (p *Poller[T]) takeIdle(e *epoll[T]) (*worker[T], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(e.idle) - 1; last >= 0 {
		w := e.idle[last]
		e.idle = e.idle[:last]
		return w, nil
	}
	run, err := p.newRun()
	if err != nil {
		return nil, err
	}
	return &worker[T]{run: run}, nil
}

// putIdle keeps what a helper had for the next one, unless the instance is closed.
func (p *Poller[T]) putIdle(e *epoll[T], w *worker[T]) {
	w.busy = 0
	p.mu.Lock()
	open := p.current == e
	if open {
		e.idle = append(e.idle, w)
	}
	p.mu.Unlock()
	if !open {
		w.run.End()
	}
}

// endIdle ends what helpers have left, after the instance was closed.
func (p *Poller[T]) endIdle(e *epoll[T]) {
	p.mu.Lock()
	idle := e.idle
	e.idle = nil
	p.mu.Unlock()
	for _, w := range idle {
		w.run.End()
	}
}

// resolve returns the owners of events, without events of former owners.
func (p *Poller[T]) resolve(e *epoll[T], events []unix.EpollEvent, ready []Ready[T]) []Ready[T] {
	ready = ready[:0]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != e {
		return ready // StopIfIdle closed this instance, and there may be another one
	}
	for _, event := range events {
		token := Token(uint32(event.Fd)) | Token(uint32(event.Pad))<<32
		s := &p.slots[token.slot()]
		if s.used && s.generation == token.generation() {
			ready = append(ready, Ready[T]{Value: s.value, Token: token, Events: Events(event.Events)})
		}
	}
	return ready
}
