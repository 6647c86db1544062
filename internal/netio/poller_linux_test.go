package netio

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// recorder is a run that records its turns and does what a test wants in them.
type recorder struct {
	turn func(ready []Ready[*owner])
	ends chan struct{}
}

func (r *recorder) Turn(ready []Ready[*owner]) { r.turn(ready) }
func (r *recorder) End()                       { r.ends <- struct{}{} }

// owner is a socket pair whose near end a poller watches.
type owner struct {
	near, far int
	slot      Slot
	token     Token
}

func newOwner(t *testing.T, p *Poller[*owner], events Events) *owner {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	o := &owner{near: fds[0], far: fds[1]}
	o.slot, err = p.Join(o)
	relaytest.Check(t, err)
	o.token, err = p.Watch(o.slot, 1, o.near, events)
	relaytest.Check(t, err)
	return o
}

func (o *owner) write(t *testing.T) {
	t.Helper()
	_, err := unix.Write(o.far, []byte("x"))
	relaytest.Check(t, err)
}

func (o *owner) close() {
	CloseDescriptor(o.near)
	CloseDescriptor(o.far)
}

// newRecorder returns a poller whose runs call turn; runs receives a value for
// each run that started, and ends for each that ended.
func newRecorder(turn func([]Ready[*owner])) (p *Poller[*owner], runs, ends chan struct{}) {
	runs, ends = make(chan struct{}, 10), make(chan struct{}, 10)
	return NewPoller(1, nil, func() (Run[*owner], error) {
		runs <- struct{}{}
		return &recorder{turn, ends}, nil
	}), runs, ends
}

func TestPollerReportsAndStops(t *testing.T) {
	relaytest.NoLeaks(t)
	reports := make(chan Ready[*owner], 10)
	p, runs, ends := newRecorder(func(ready []Ready[*owner]) {
		for _, r := range ready {
			reports <- r
		}
	})
	for range 2 { // the second time in a run of its own
		o := newOwner(t, p, Readable|EdgeTriggered)
		o.write(t)
		got := relaytest.Receive(t, "the report", reports)
		if got.Value != o || got.Token != o.token || got.Token.Which() != 1 || got.Events != Readable {
			t.Errorf("reported %+v, want %+v", got, o)
		}
		p.Leave(o.slot)
		o.close()
		relaytest.Receive(t, "the start", runs)
		relaytest.Receive(t, "the end", ends)
		if p.Owners() != 0 {
			t.Errorf("%d owners left", p.Owners())
		}
	}
}

// After StopWhenIdle a run ends with its last owner, without the linger time.
func TestPollerStopsWhenIdle(t *testing.T) {
	relaytest.NoLeaks(t)
	p, _, ends := newRecorder(func([]Ready[*owner]) {})
	first := newOwner(t, p, Readable)
	p.StopWhenIdle() // has an owner still
	second := newOwner(t, p, Readable)
	p.Leave(first.slot)
	first.close()
	if len(ends) > 0 {
		t.Error("the run ended while it had an owner")
	}
	p.Leave(second.slot)
	second.close()
	if p.lingering {
		t.Error("the run lingers")
	}
	relaytest.Receive(t, "the end", ends)
}

// Events that the kernel has reported already do not reach the next owner of a slot.
func TestPollerDropsEventsOfFormerOwners(t *testing.T) {
	relaytest.NoLeaks(t)
	var p *Poller[*owner]
	var mu sync.Mutex
	var first, second *owner
	wrong := make(chan string, 100)
	blocked, release := make(chan struct{}), make(chan struct{})
	turns := 0
	p, _, ends := newRecorder(func(ready []Ready[*owner]) {
		mu.Lock()
		defer mu.Unlock()
		turns++
		if turns == 1 {
			close(blocked)
			<-release // events pile up in the kernel meanwhile
		}
		for _, r := range ready {
			if r.Value != first && r.Value != second {
				wrong <- "an event without an owner"
			}
			if r.Value == second && r.Token != second.token {
				wrong <- "an event of the former owner"
			}
		}
	})
	first = newOwner(t, p, Readable|EdgeTriggered)
	first.write(t)
	relaytest.Receive(t, "the first turn", blocked)
	stale := first.token
	p.Unwatch(first.token, first.near) // and its descriptor stays open
	p.Leave(first.slot)
	second = newOwner(t, p, Readable|EdgeTriggered)
	if second.slot != first.slot {
		t.Fatalf("slot %d, want that of the former owner, %d", second.slot, first.slot)
	}
	events := []unix.EpollEvent{{Events: unix.EPOLLIN, Fd: int32(stale), Pad: int32(stale >> 32)}}
	if got := p.resolve(p.current, events, nil); len(got) != 0 {
		t.Errorf("the former owner's event is reported as %+v", got)
	}
	close(release)
	p.Leave(second.slot)
	first.close()
	second.close()
	relaytest.Receive(t, "the end", ends)
	select {
	case what := <-wrong:
		t.Error(what)
	default:
	}
}

// A change of the events reports again what is ready, though nothing is new.
func TestPollerReportsAgainAfterAChange(t *testing.T) {
	relaytest.NoLeaks(t)
	var p *Poller[*owner]
	left := 5
	done := make(chan struct{})
	p, _, ends := newRecorder(func(ready []Ready[*owner]) {
		for _, r := range ready {
			if left--; left == 0 {
				close(done)
			} else if err := p.Change(r.Token, r.Value.near, Readable|EdgeTriggered); err != nil {
				t.Error(err)
			}
		}
	})
	o := newOwner(t, p, Readable|EdgeTriggered)
	o.write(t)
	relaytest.Receive(t, "five reports of one byte", done)
	p.Leave(o.slot)
	o.close()
	p.StopIfIdle()
	relaytest.Receive(t, "the end", ends)
}

// There is no turn if all events are those of former owners, with or without helpers.
func TestPollerMakesNoEmptyTurn(t *testing.T) {
	for _, workers := range []int{1, 2} {
		p := NewPoller[*owner](workers, nil, nil)
		p.turn(&epoll[*owner]{}, &worker[*owner]{run: &recorder{turn: func([]Ready[*owner]) { t.Error("an empty turn") }}})
	}
}

// What was harvested from an instance that is closed reaches no owner in the next one.
func TestPollerDropsEventsOfAClosedInstance(t *testing.T) {
	relaytest.NoLeaks(t)
	p, _, ends := newRecorder(func([]Ready[*owner]) {})
	first := newOwner(t, p, Readable|EdgeTriggered)
	closed := p.current
	p.Leave(first.slot)
	first.close()
	p.StopIfIdle()
	relaytest.Receive(t, "the end", ends)
	second := newOwner(t, p, Readable|EdgeTriggered)
	events := []unix.EpollEvent{{Events: unix.EPOLLIN, Fd: int32(second.token), Pad: int32(second.token >> 32)}}
	if got := p.resolve(closed, events, nil); len(got) != 0 {
		t.Errorf("reported as %+v", got)
	}
	p.Leave(second.slot)
	second.close()
	p.StopIfIdle()
	relaytest.Receive(t, "the end", ends)
}
