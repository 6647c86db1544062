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
	number  int // the descriptor
	file    *os.File
	raw     syscall.RawConn // of file
	helpers atomic.Int32    // that run
	rest    atomic.Int32    // how many times more no helper starts
	useless atomic.Int32    // what rest is set to if the next one finds no events, too
	idle    []*worker[T]    // what helpers have left; guarded by Poller.mu
}

// worker is what one goroutine of a Poller has.
type worker[T any] struct {
	run    Run[T]
	events [maxEvents]unix.EpollEvent
	ready  []Ready[T]
	took   time.Duration // about how long an event takes
	busy   time.Duration // since the goroutine has last waited or yielded
}

const (
	// maxEvents bounds the events of one Turn.
	maxEvents = 256
	// maxTurn is about how long a Turn takes at most. If more events are ready, another
	// goroutine helps. One event may take longer.
	maxTurn = 200 * time.Microsecond
	// maxRest bounds how many times in a row no helper starts.
	maxRest = 63
	// maxBusy is how long a goroutine runs before it lets others run. It yields earlier
	// if they may have no other processor.
	maxBusy = time.Millisecond
)

// startLocked opens an epoll instance and starts its leader.
func (p *Poller[T]) startLocked() error {
	run, err := p.newRun()
	if err != nil {
		return err
	}
	number, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		run.End()
		return os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(number, true) // os.NewFile registers only nonblocking descriptors with Go's poller
	e := &epoll[T]{number: number, file: os.NewFile(uintptr(number), "epoll")}
	e.raw, err = e.file.SyscallConn()
	if err == nil {
		err = CheckPolled(e.file)
	}
	if err != nil {
		run.End()
		_ = e.file.Close()
		return err
	}
	p.current = e
	go p.lead(e, &worker[T]{run: run}) // ends when StopIfIdle closes the file
	return nil
}

// lead handles events until the instance is closed.
func (p *Poller[T]) lead(e *epoll[T], w *worker[T]) {
	defer p.endIdle(e)
	defer w.run.End()
	n, limit := 0, 0
	poll := func(number uintptr) (done bool) {
		if n = epollWaitNonblock(int(number), w.events[:limit]); n == 0 {
			w.busy = 0
		}
		return n > 0
	}
	for limit = w.limit(); e.raw.Read(poll) == nil; limit = w.limit() {
		p.turn(e, w, n, limit)
	}
}

// help handles events until none is ready.
func (p *Poller[T]) help(e *epoll[T]) {
	w, err := p.takeIdle(e)
	if err != nil {
		e.helpers.Add(-1)
		return
	}
	handled, n, limit := 0, 0, 0
	poll := func(number uintptr) { n = epollWaitNonblock(int(number), w.events[:limit]) }
	for limit = w.limit(); e.raw.Control(poll) == nil && n > 0; limit = w.limit() {
		handled += n
		p.turn(e, w, n, limit)
	}
	e.helpers.Add(-1)
	if handled > 0 {
		e.useless.Store(0)
	} else {
		rest := min(2*e.useless.Load()+1, maxRest)
		e.useless.Store(rest)
		e.rest.Store(rest)
	}
	p.putIdle(e, w)
}

// turn handles n events. That there are as many as the limit means that there may be
// more.
func (p *Poller[T]) turn(e *epoll[T], w *worker[T], n, limit int) {
	if n == limit {
		p.callHelp(e)
	}
	w.ready = p.resolve(e, w.events[:n], w.ready)
	if p.workers == 1 {
		w.run.Turn(w.ready)
		clear(w.ready) // release the owners that ended
		return
	}
	began := time.Now()
	w.run.Turn(w.ready)
	clear(w.ready)
	w.measure(time.Since(began), n)
	if w.busy > maxBusy || w.busy > maxTurn && (e.helpers.Load() > 0 || runtime.GOMAXPROCS(0) == 1) {
		w.busy = 0
		runtime.Gosched()
	}
}

// measure records how long a turn of n events took. Because the system may have stopped
// the thread meanwhile, one turn counts little.
func (w *worker[T]) measure(turn time.Duration, n int) {
	w.busy += turn
	each := turn / time.Duration(n)
	if w.took > 0 {
		each = min(each, 4*w.took)
	}
	w.took += (each - w.took) / 8
}

// limit returns how many events the next turn handles at most.
func (w *worker[T]) limit() int {
	if w.took <= 0 {
		return maxEvents
	}
	return int(min(max(maxTurn/w.took, 1), maxEvents))
}

// callHelp starts a helper, unless there are enough or the last ones had nothing to do.
func (p *Poller[T]) callHelp(e *epoll[T]) {
	if p.workers == 1 {
		return
	}
	if e.rest.Load() > 0 && e.rest.Add(-1) >= 0 {
		return
	}
	if e.helpers.Add(1) >= int32(p.workers) {
		e.helpers.Add(-1)
		return
	}
	go p.help(e) // returns when no event is ready
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
	p.mu.Lock()
	defer p.mu.Unlock()
	w.busy = 0
	if p.current != e {
		w.run.End()
		return
	}
	e.idle = append(e.idle, w)
}

// endIdle ends what helpers have left, after the instance was closed.
func (p *Poller[T]) endIdle(e *epoll[T]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range e.idle {
		w.run.End()
	}
	e.idle = nil
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
