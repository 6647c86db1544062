package handler

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// demoteWithRecord reports two failures of a backend, as two attempts of a
// client do.
func (r *rig) demoteWithRecord(backend string) {
	walk := r.service.Pool.Probe(r.service.Pool.Backend(backend), upstream.TCP, upstream.Listens)
	a, ok := walk.Next(time.Now())
	for ; ok; a, ok = walk.Again(a, time.Now()) {
		r.relay.recordFailure(&walk, outcome{attempt: a, err: errRefused}, upstream.TCP, healthCheckSource{})
	}
}

func TestResetRecordsAnEntry(t *testing.T) {
	r := newRig(t, []string{"192.0.2.1:80", "192.0.2.2:80"})
	r.demoteWithRecord("192.0.2.1:80")
	r.wantFirst("192.0.2.2:80")
	r.service.Reset("an operator")
	r.wantFirst("192.0.2.1:80")
	r.service.Reset("another")
	entries := r.service.Journal.Entries()[2:] // after the strike and the demotion
	if len(entries) != 2 {
		t.Fatalf("entries %v, want two resets", entries)
	}
	if e := entries[0]; e.Kind != KindReset || e.By != "an operator" || !slices.Equal(e.Order, r.service.Pool.Order()) {
		t.Errorf("first reset: %+v", e)
	}
	if e := entries[1]; e.Kind != KindReset || e.By != "another" || e.Order != nil {
		t.Errorf("reset of a queue in its configured order: %+v", e)
	}
}

func TestSetDrainedRecordsChanges(t *testing.T) {
	r := newRig(t, []string{"192.0.2.1:80", "192.0.2.2:80"})
	first, last := r.service.Pool.Backend("192.0.2.1:80"), r.service.Pool.Backend("192.0.2.2:80")
	for _, step := range []struct {
		backend *upstream.Backend
		drained bool
		changed bool
		err     error
	}{
		{first, true, true, nil},
		{first, true, false, nil},
		{last, true, false, upstream.ErrLastBackend},
		{first, false, true, nil},
		{new(upstream.Backend), true, false, upstream.ErrRemoved},
	} {
		changed, err := r.service.SetDrained(step.backend, step.drained, "an operator")
		if changed != step.changed || err != step.err {
			t.Errorf("SetDrained(%q, %v) returns %v, %v; want %v, %v", step.backend.Text, step.drained, changed, err, step.changed, step.err)
		}
	}
	var got []Kind
	for _, e := range r.service.Journal.Entries() {
		got = append(got, e.Kind)
		if e.Backend != first.Text || e.By != "an operator" {
			t.Errorf("entry %+v", e)
		}
	}
	if !slices.Equal(got, []Kind{KindDrain, KindResume}) {
		t.Errorf("entries %v, want one drain and one resume", got)
	}
}

// Operators who drain and resume a backend at the same time leave entries in
// the order of the changes: drains and resumes alternate, and the last entry
// agrees with the queue.
func TestSetDrainedConcurrently(t *testing.T) {
	r := newRig(t, []string{"192.0.2.1:80", "192.0.2.2:80"})
	b := r.service.Pool.Backend("192.0.2.1:80")
	for range 100 {
		var operators sync.WaitGroup
		for range 4 {
			operators.Go(func() {
				for i := range 20 {
					_, err := r.service.SetDrained(b, i%2 == 0, "an operator")
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		operators.Wait()
		entries := r.service.Journal.Entries()
		for i, e := range entries[1:] {
			if e.Kind == entries[i].Kind {
				t.Fatalf("two entries %s in a row", e.Kind)
			}
		}
		drained := r.status(b.Text, upstream.TCP).State == upstream.Draining
		if last := entries[len(entries)-1]; (last.Kind == KindDrain) != drained {
			t.Fatalf("the last entry is %s, drained is %v", last.Kind, drained)
		}
	}
}

// The last new order in the journal is the order of the queue, also after
// resets, failbacks and demotions at the same time.
func TestOrderInTheJournalConcurrently(t *testing.T) {
	backends := []string{"192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"}
	r := newRig(t, backends)
	for range 2000 {
		var changes sync.WaitGroup
		for _, backend := range backends {
			changes.Go(func() {
				r.demoteWithRecord(backend)
				r.service.failback(r.service.Pool.Backend(backend))
			})
		}
		changes.Go(func() { r.service.Reset("an operator") })
		changes.Wait()
		last := backends // until something changes: a reset may forestall all demotions
		for _, e := range r.service.Journal.Entries() {
			if e.Order != nil {
				last = e.Order
			}
		}
		if order := r.service.Pool.Order(); !slices.Equal(last, order) {
			t.Fatalf("the journal's last order is %v, the queue's %v", last, order)
		}
	}
}

// After demotions and recoveries at the same time, the last of them in the
// journal agrees with the state of the backend.
func TestRecoveriesInTheJournalConcurrently(t *testing.T) {
	const backend = "192.0.2.1:80"
	r := newRig(t, []string{backend})
	for range 2000 {
		var clients sync.WaitGroup
		clients.Go(func() { r.demoteWithRecord(backend) })
		clients.Go(func() {
			walk := r.service.Pool.Walk(upstream.TCP)
			a, _ := walk.Next(time.Now())
			r.relay.recordSuccess(&walk, outcome{attempt: a}, upstream.TCP, healthCheckSource{}, time.Now(), false)
		})
		clients.Wait()
		down := false
		for _, e := range r.service.Journal.Entries() {
			if e.Kind != KindStrike {
				down = e.Kind == KindDemotion
			}
		}
		if got := r.service.Pool.Backend(backend).Down(upstream.TCP); got != down {
			t.Fatalf("down is %v, by the journal %v", got, down)
		}
	}
}

// A client that is served in good times does not wait for the journal.
func TestSuccessTakesNoJournalLock(t *testing.T) {
	relaytest.NoLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", greet("hello"))
	r := newRig(t, []string{server.String()})
	r.service.Journal.mu.Lock()
	defer r.service.Journal.mu.Unlock()
	client, _ := r.client()
	relaytest.WantRead(t, client, "hello")
}
