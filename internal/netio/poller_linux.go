package netio

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Events are the events of epoll(7) that a descriptor is watched for, or that are
// reported.
type Events uint32

const (
	Readable      Events = unix.EPOLLIN
	Writable      Events = unix.EPOLLOUT
	Urgent        Events = unix.EPOLLPRI   // urgent data is in the receive queue
	PeerFinished  Events = unix.EPOLLRDHUP // the peer sent a FIN, or the connection failed
	Failed        Events = unix.EPOLLERR   // the socket has a pending error; always reported
	HungUp        Events = unix.EPOLLHUP   // both directions are shut down; always reported
	EdgeTriggered Events = unix.EPOLLET    // report changes only
)

// Ready is one report of a [Poller].
type Ready[T any] struct {
	Value  T
	Token  Token
	Events Events
}

// Token names a descriptor in a [Poller]: the slot of its owner, the generation
// of that slot, and which of the owner's two descriptors it is. The zero Token
// names none.
//
//	63        32 31         1  0
//	[generation] [slot number] [which]
//
// The kernel may still hold events of a descriptor whose owner has left its
// slot. Their generation is older than the slot's, so they reach no other owner.
type Token uint64

func newToken(slot int32, generation uint32, which uint8) Token {
	return Token(generation)<<32 | Token(uint32(slot)<<1) | Token(which&1)
}

// Which returns which of its owner's descriptors the token names, 0 or 1.
func (t Token) Which() uint8 { return uint8(t & 1) }

func (t Token) slot() int32        { return int32(uint32(t) >> 1) }
func (t Token) generation() uint32 { return uint32(t >> 32) }

// Slot is an owner's place in a [Poller]. [NoSlot] is none.
type Slot int32

// NoSlot is the Slot of an owner that is in no Poller.
const NoSlot Slot = -1

// Run is what one goroutine of a [Poller] handles events with. Its methods are called
// by that goroutine only.
type Run[T any] interface {
	// Turn handles the events that are ready now. The slice is valid until it
	// returns.
	Turn(ready []Ready[T])
	// End is called once, after the last Turn.
	End()
}

// Poller waits for events of many descriptors, with epoll(7). Each owner of type T
// has a slot and up to two descriptors. One goroutine, the leader, runs while there
// are owners, and for a linger time after the last one has left. Helpers run while
// there is too much to do for one goroutine, see poller_workers_linux.go.
//
// The leader waits in Go's network poller, so waiting needs no thread. While single events
// follow each other quickly, it waits in epoll_wait(2), see poller_wait_linux.go.
//
// All methods may be called by any goroutine.
type Poller[T any] struct {
	// Set once.
	workers  int                    // the most goroutines at a time
	budget   *ProcessorBudget       // of the process; nil: none
	newRun   func() (Run[T], error) // called under mu
	timed    bool                   // turns are timed: there may be helpers, or just one processor
	helpFrom time.Duration          // the constant; tests set another value

	mu        sync.Mutex // guards the fields below; held for no blocking call
	slots     []slot[T]
	free      []int32   // numbers of the slots without an owner
	current   *epoll[T] // nil: nothing runs
	lingering bool      // StopIfIdle will be called
	hasty     bool      // StopWhenIdle was called
}

// slot is one entry of a Poller's table.
type slot[T any] struct {
	value      T
	generation uint32
	used       bool
}

// lingerTime is how long a Poller without owners waits for the next one. Clients
// that come one after the other would otherwise start and stop the leader each.
const lingerTime = time.Second

// NewPoller returns a poller that holds no resources until [Poller.Join]. At most
// workers goroutines handle events at a time. The leader keeps its processor while it waits
// for quick events only if budget is not nil and allows it. With more than one worker, all descriptors must
// be watched with [EdgeTriggered]: events of any other one are handled by several
// goroutines at once. newRun allocates what a goroutine needs; it must not block and not
// use the poller. After StopIfIdle, goroutines may still be in their last Turn when the
// next leader starts.
func NewPoller[T any](workers int, budget *ProcessorBudget, newRun func() (Run[T], error)) *Poller[T] {
	timed := workers > 1 || runtime.GOMAXPROCS(0) == 1
	return &Poller[T]{workers: workers, budget: budget, newRun: newRun, timed: timed, helpFrom: helpFrom}
}

// AlwaysHelp makes the goroutines start a helper whenever there are events of two
// owners, however long it takes to handle them. Tests call it before the first Join.
func (p *Poller[T]) AlwaysHelp() { p.helpFrom = -1 }

// Join gives an owner a slot, and starts the leader if none runs.
func (p *Poller[T]) Join(value T) (Slot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		if err := p.startLocked(); err != nil {
			return NoSlot, err
		}
	}
	if len(p.free) == 0 {
		p.free = append(p.free, int32(len(p.slots)))
		p.slots = append(p.slots, slot[T]{})
	}
	last := len(p.free) - 1
	n := p.free[last]
	p.free = p.free[:last]
	s := &p.slots[n]
	s.value, s.used = value, true
	s.generation++
	return Slot(n), nil
}

// Watch starts reporting events of an owner's descriptor. which is 0 or 1.
//
// Preconditions: the owner has the slot, and the descriptor is not watched.
func (p *Poller[T]) Watch(at Slot, which uint8, fd int, events Events) (Token, error) {
	p.mu.Lock()
	token, fds := newToken(int32(at), p.slots[at].generation, which), p.current
	p.mu.Unlock() // the instance stays open, because it has an owner
	if err := epollCtl(fds.number, unix.EPOLL_CTL_ADD, fd, events, token); err != nil {
		return 0, err
	}
	return token, nil
}

// WatchUntil is Join and Watch for an owner of one descriptor, which leaves when stop is
// called. stop must be called once, before the descriptor is closed.
func (p *Poller[T]) WatchUntil(value T, fd int, events Events) (stop func(), err error) {
	slot, err := p.Join(value)
	if err != nil {
		return nil, err
	}
	token, err := p.Watch(slot, 0, fd, events)
	if err != nil {
		p.Leave(slot)
		return nil, err
	}
	return func() {
		p.Unwatch(token, fd)
		p.Leave(slot)
	}, nil
}

// Change replaces the events that a watched descriptor is watched for. Those that are
// ready are reported again, after what is ready already.
//
// Precondition: the owner has the slot.
func (p *Poller[T]) Change(token Token, fd int, events Events) error {
	p.mu.Lock()
	fds := p.current
	p.mu.Unlock()
	return epollCtl(fds.number, unix.EPOLL_CTL_MOD, fd, events, token)
}

// Unwatch stops reporting events of a descriptor that stays open. Events that
// are under way are dropped, those of the owner's other descriptor included.
//
// Precondition: the owner watches no other descriptor.
func (p *Poller[T]) Unwatch(token Token, fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[token.slot()]
	if s.generation != token.generation() {
		return
	}
	_ = epollCtl(p.current.number, unix.EPOLL_CTL_DEL, fd, 0, 0)
	s.generation++
}

// Leave frees an owner's slot. The owner closes its descriptors, which removes
// them from the epoll instance, or has called [Poller.Unwatch]. It does nothing
// for NoSlot.
func (p *Poller[T]) Leave(at Slot) {
	if at == NoSlot {
		return
	}
	p.leave(at).close()
}

// leave frees a slot, and returns what must be closed, or nil.
func (p *Poller[T]) leave(at Slot) *epoll[T] {
	p.mu.Lock()
	defer p.mu.Unlock()
	var none T
	s := &p.slots[at]
	s.value, s.used = none, false
	s.generation++
	p.free = append(p.free, int32(at))
	switch {
	case len(p.free) < len(p.slots):
	case p.hasty:
		return p.stopIfIdleLocked()
	case !p.lingering:
		p.lingering = true
		time.AfterFunc(lingerTime, p.StopIfIdle)
	}
	return nil
}

// Owners returns how many slots have an owner.
func (p *Poller[T]) Owners() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.slots) - len(p.free)
}

// StopIfIdle ends the goroutines if there are no owners, which otherwise happens after
// the linger time. The next Join starts a leader.
func (p *Poller[T]) StopIfIdle() {
	p.mu.Lock()
	p.lingering = false
	ended := p.stopIfIdleLocked()
	p.mu.Unlock()
	ended.close()
}

// StopWhenIdle ends the goroutines, now and later, as soon as there are no owners,
// without the linger time. Tests use it to check that nothing is left running.
func (p *Poller[T]) StopWhenIdle() {
	p.mu.Lock()
	p.hasty = true
	ended := p.stopIfIdleLocked()
	p.mu.Unlock()
	ended.close()
}

// stopIfIdleLocked ends the instance if there are no owners, and returns it, or nil. The
// caller must close it, without the lock: that may wait for the leader, for maxKept. The
// kernel forgets the events of the closed instance. Those that were harvested before reach
// no owner of the next one, see resolve.
func (p *Poller[T]) stopIfIdleLocked() *epoll[T] {
	ended := p.current
	if ended == nil || len(p.free) < len(p.slots) {
		return nil
	}
	p.current = nil
	if len(p.slots) > maxEvents { // free the table of a burst
		p.slots, p.free = nil, nil
	}
	return ended
}
