package netio

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// counted is an owner that counts what its near end receives.
type counted struct {
	owner
	mu       sync.Mutex // guards the fields below and token
	received int
	left     bool
}

// take reads at most limit bytes, and reports whether there may be more.
func (o *counted) take(limit int) (more bool) {
	buf := make([]byte, limit)
	n, _ := ReadNonblock(o.near, buf)
	o.received += max(n, 0)
	return n == limit
}

// Owners come and go while several workers handle events, and nothing is lost: each
// byte is read once, by an owner that has not left.
func TestWorkersStress(t *testing.T) {
	relaytest.NoLeaks(t)
	before := relaytest.OpenDescriptors(t)
	const workers = 3
	var runs, ends, turns, helped atomic.Int32
	var p *Poller[*counted]
	turn := func(ready []Ready[*counted]) {
		if n := turns.Add(1); n > workers {
			t.Errorf("%d turns at a time", n)
		} else if n > 1 {
			helped.Add(1)
		}
		defer turns.Add(-1)
		for _, event := range ready {
			o := event.Value
			o.mu.Lock()
			if !o.left && o.token == event.Token && o.take(3) {
				if err := p.Change(o.token, o.near, Readable|EdgeTriggered); err != nil {
					t.Error(err)
				}
			}
			o.mu.Unlock()
		}
	}
	p = NewPoller(workers, nil, func() (Run[*counted], error) {
		runs.Add(1)
		return &stressRun{turn, &ends}, nil
	})
	p.AlwaysHelp()
	var writers sync.WaitGroup
	for n := range 24 {
		writers.Go(func() { // ends after its owners
			random := rand.New(rand.NewPCG(uint64(n), 2))
			for range 12 {
				stressOwner(t, p, random)
				if n == 0 {
					p.StopIfIdle() // which it rarely is
				}
			}
		})
	}
	writers.Wait()
	p.StopWhenIdle()
	relaytest.Eventually(t, "the end of all runs", func() bool { return ends.Load() == runs.Load() })
	relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
	if helped.Load() == 0 {
		t.Error("no helper has run")
	}
}

type stressRun struct {
	turn func([]Ready[*counted])
	ends *atomic.Int32
}

func (r *stressRun) Turn(ready []Ready[*counted]) { r.turn(ready) }
func (r *stressRun) End()                         { r.ends.Add(1) }

// stressOwner is the life of one owner. It may be unwatched and watched again while its
// bytes arrive.
func stressOwner(t *testing.T, p *Poller[*counted], random *rand.Rand) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	o := &counted{owner: owner{near: fds[0], far: fds[1]}}
	watch := func() {
		if o.token, err = p.Watch(o.slot, 1, o.near, Readable|EdgeTriggered); err != nil {
			t.Error(err)
		}
	}
	o.mu.Lock()
	if o.slot, err = p.Join(o); err != nil {
		t.Error(err)
	}
	watch()
	o.mu.Unlock()
	sent := 0
	for range random.IntN(60) {
		n, err := unix.Write(o.far, make([]byte, 1+random.IntN(20)))
		if err != nil {
			t.Error(err)
		}
		sent += n
		if random.IntN(10) == 0 {
			o.mu.Lock()
			p.Unwatch(o.token, o.near)
			watch()
			o.mu.Unlock()
		}
	}
	received := func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.received
	}
	for deadline := time.Now().Add(relaytest.Limit); received() != sent; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Errorf("received %d bytes of %d", received(), sent)
			break
		}
	}
	o.mu.Lock()
	o.left = true
	p.Leave(o.slot)
	o.mu.Unlock()
	o.close()
}
