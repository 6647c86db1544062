package upstream

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// suspectPool returns a pool of a, b and c in which a is a suspect on TCP.
func suspectPool(t *testing.T) *Pool {
	t.Helper()
	p := NewPool(addresses("a b c"), 0, start)
	if !p.Suspect(p.Backend("a"), TCP, start) {
		t.Fatal("a is no suspect")
	}
	return p
}

// offered returns the backends that a client is offered one after the other, at a
// time after the start.
func offered(p *Pool, after time.Duration) (texts []string) {
	walk := p.Walk(TCP)
	for a, ok := walk.Next(start.Add(after)); ok; a, ok = walk.Next(start.Add(after)) {
		texts = append(texts, a.Backend.Text)
		walk.Exhaust(a.Backend)
	}
	return texts
}

func wantOffered(t *testing.T, p *Pool, after time.Duration, want ...string) {
	t.Helper()
	if got := offered(p, after); !slices.Equal(got, want) {
		t.Errorf("after %s, a client is offered %v, want %v", after, got, want)
	}
}

func wantSuspect(t *testing.T, p *Pool, n Network, want bool) {
	t.Helper()
	if got := p.Backend("a").Suspected(n); got != want {
		t.Errorf("a suspected on %s: %v, want %v", n, got, want)
	}
	i := slices.IndexFunc(p.Snapshot(start), func(s Status) bool { return s.Backend.Text == "a" })
	if got := p.Snapshot(start)[i].Networks[n].Suspect; got != want {
		t.Errorf("snapshot: a suspected on %s: %v, want %v", n, got, want)
	}
}

// A suspicion alone changes neither the order nor the strikes, and concerns one
// network.
func TestSuspicionMovesNothing(t *testing.T) {
	p := suspectPool(t)
	wantSuspect(t, p, TCP, true)
	wantSuspect(t, p, UDP, false)
	wantOffered(t, p, time.Hour, "a", "b", "c")
	if s := p.Snapshot(start)[0]; s.Backend.Text != "a" || s.Networks[TCP].State != Up || s.Networks[TCP].Strikes != 0 {
		t.Errorf("first backend: %+v", s)
	}
	if p.Suspect(p.Backend("a"), TCP, start) {
		t.Error("a became a suspect twice")
	}
}

// From the time when the client of the trial stopped waiting, others are offered the
// suspect last, until the trial ends.
func TestTrialOfASuspect(t *testing.T) {
	p := suspectPool(t)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	if !a.Suspect() || !walk.BeginTrial(a, start.Add(time.Second), start.Add(10*time.Second)) {
		t.Fatal("no trial")
	}
	if walk.BeginTrial(a, start.Add(time.Second), start.Add(10*time.Second)) {
		t.Error("a second trial at the same time")
	}
	wantOffered(t, p, time.Second-1, "a", "b", "c")
	wantOffered(t, p, time.Second, "b", "c", "a")
	wantOffered(t, p, 10*time.Second-1, "b", "c", "a")
	wantOffered(t, p, 10*time.Second, "a", "b", "c") // without a result
	walk.EndTrial(a)
	wantOffered(t, p, time.Second, "a", "b", "c")
	wantSuspect(t, p, TCP, true)
}

// A suspect that is passed over comes before cooling backends.
func TestSuspectBeforeCoolingBackends(t *testing.T) {
	p := NewPool(addresses("a b"), time.Hour, start)
	other := p.Walk(TCP)
	other.Exhaust(p.Backend("a"))
	demoteOffered(t, p, &other, "b")
	p.Suspect(p.Backend("a"), TCP, start)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	walk.BeginTrial(a, start, start.Add(time.Minute))
	wantOffered(t, p, time.Second, "a", "b")
}

// A suspect that is passed over comes before backends that are down here and do not
// cool: a client would wait for them in vain.
func TestSuspectBeforeDownBackends(t *testing.T) {
	p := NewPool(addresses("a b c"), 0, start)
	for _, b := range []string{"b", "c"} {
		other := p.Walk(TCP)
		other.Exhaust(p.Backend("a"))
		demoteOffered(t, p, &other, b)
	}
	p.Suspect(p.Backend("a"), TCP, start)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	walk.BeginTrial(a, start, start.Add(time.Minute))
	wantOffered(t, p, time.Second, "a", "b", "c")
	recovered := p.Walk(TCP)
	recovered.Exhaust(p.Backend("a"))
	b, _ := recovered.Next(start)
	recovered.Succeeded(b, start)
	wantOffered(t, p, time.Second, "b", "a", "c")
}

// A client ends no trial but its own.
func TestEndOfAnotherTrial(t *testing.T) {
	p := suspectPool(t)
	early, trying := p.Walk(TCP), p.Walk(TCP)
	before, _ := early.Next(start.Add(-time.Second))
	a, _ := trying.Next(start)
	trying.BeginTrial(a, start, start.Add(time.Minute))
	early.EndTrial(before)
	wantOffered(t, p, time.Second, "b", "c", "a")
	trying.EndTrial(a)
	wantOffered(t, p, time.Second, "a", "b", "c")
}

// demote fails two attempts on the backend that a walk is offered next.
func demoteOffered(t *testing.T, p *Pool, walk *Walk, backend string) {
	t.Helper()
	for range 2 {
		a, ok := walk.Next(start)
		if !ok || a.Backend.Text != backend {
			t.Fatalf("offered %v, want %s", a.Backend, backend)
		}
		walk.Failed(a, start, errors.New("refused"))
	}
	if !p.Backend(backend).Down(TCP) {
		t.Fatalf("%s is not down", backend)
	}
}

// The first result of this instance ends a suspicion.
func TestResultsEndASuspicion(t *testing.T) {
	for name, end := range map[string]func(*Pool){
		"success":    func(p *Pool) { walk := p.Walk(TCP); a, _ := walk.Next(start); walk.Succeeded(a, start) },
		"demotion":   func(p *Pool) { walk := p.Walk(TCP); demoteOffered(t, p, &walk, "a") },
		"reset":      func(p *Pool) { p.Reset() },
		"withdrawal": func(p *Pool) { p.Unsuspect(p.Backend("a"), TCP) },
	} {
		t.Run(name, func(t *testing.T) {
			p := suspectPool(t)
			end(p)
			wantSuspect(t, p, TCP, false)
		})
	}
}

// A backend that is down here already does not become a suspect, nor does a removed
// one.
func TestNoSuspicionOfDownOrRemovedBackends(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	walk := p.Walk(TCP)
	demoteOffered(t, p, &walk, "a")
	if p.Suspect(p.Backend("a"), TCP, start) {
		t.Error("a backend that is down became a suspect")
	}
	removed := p.Backend("b")
	p.Update(addresses("a"), 0)
	if p.Suspect(removed, TCP, start) {
		t.Error("a removed backend became a suspect")
	}
}

// A companion attempt prefers backends that are no suspects.
func TestBesideASuspect(t *testing.T) {
	p := suspectPool(t)
	p.Suspect(p.Backend("b"), TCP, start)
	walk := p.Walk(TCP)
	if a, ok := walk.Beside(p.Backend("a"), start); !ok || a.Backend.Text != "c" {
		t.Errorf("beside a: %v, want c", a.Backend)
	}
	walk.Exhaust(p.Backend("c"))
	if a, ok := walk.Beside(p.Backend("a"), start); !ok || a.Backend.Text != "b" {
		t.Errorf("beside a without c: %v, want b", a.Backend)
	}
}

func TestSuspicionCostsNextNothing(t *testing.T) {
	p := suspectPool(t)
	if n := testing.AllocsPerRun(100, func() { walk := p.Walk(TCP); walk.Next(start) }); n > 0 {
		t.Errorf("Next allocates %v times", n)
	}
}
