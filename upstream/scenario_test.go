package upstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// start is the time at which the tests create their pools. No test reads a clock.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var errRefused = errors.New("connection refused")

// step is one action of a scenario with all of its effects. The tests of the rules
// are scenarios, because the rules are about sequences of events.
type step struct {
	do     string // "actor verb argument", see scenario.do
	result string // what the actor gets: a backend, "refused", a verdict or an error
	change string // the Change, see changeText; "" for its zero value
	queue  string // the queue afterwards, see queueText; "" if it does not change
}

// scenario runs steps on one pool. A client is created by its first step. The name
// of a UDP client ends with "@udp".
type scenario struct {
	t        *testing.T
	pool     *Pool
	cooldown time.Duration
	now      time.Time
	walks    map[string]*Walk
	attempts map[string]Attempt // latest attempt by "client backend"
	last     string             // the queue after the previous step
}

// play runs a scenario and checks every step. It also checks that the counts of a
// Change match the snapshot.
func play(t *testing.T, backends string, cooldown time.Duration, steps []step) {
	t.Helper()
	s := &scenario{
		t: t, now: start, cooldown: cooldown,
		pool:     NewPool(addresses(backends), cooldown, start),
		walks:    make(map[string]*Walk),
		attempts: make(map[string]Attempt),
		last:     backends,
	}
	for i, row := range steps {
		result, change := s.do(row.do)
		if result != row.result {
			t.Errorf("step %d, %q: result %q, want %q", i+1, row.do, result, row.result)
		}
		if got := changeText(change); got != row.change {
			t.Errorf("step %d, %q: change %q, want %q", i+1, row.do, got, row.change)
		}
		if available, total := s.counts(row.do, change); change.Available != available || change.Total != total {
			t.Errorf("step %d, %q: %d of %d available, want %d of %d", i+1, row.do, change.Available, change.Total, available, total)
		}
		if row.queue != "" {
			s.last = row.queue
		}
		if err := checkSnapshot(s.pool, s.now); err != nil {
			t.Errorf("step %d, %q: %v", i+1, row.do, err)
		}
		if got := queueText(s.pool, s.now); got != s.last {
			t.Errorf("step %d, %q: queue %q, want %q", i+1, row.do, got, s.last)
		}
		if t.Failed() {
			t.FailNow() // later failures would only follow from this one
		}
	}
}

// do performs one step.
func (s *scenario) do(line string) (result string, change Change) {
	actor, rest, _ := strings.Cut(line, " ")
	verb, arg, _ := strings.Cut(rest, " ")
	switch actor + " " + verb {
	case "time passes":
		d, err := time.ParseDuration(arg)
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
		return "", Change{}
	case "operator drains", "operator resumes":
		changed, err := s.pool.SetDrained(s.pool.Backend(arg), verb == "drains")
		if err != nil {
			return err.Error(), Change{}
		}
		if !changed {
			return "unchanged", Change{}
		}
		return "", Change{}
	case "operator resets":
		return "", s.pool.Reset()
	case "checker returns":
		return "", s.pool.Failback(s.pool.Backend(arg))
	case "operator forgets": // all checks
		s.pool.ForgetChecks(TCP)
		return "", Change{}
	case "operator loads":
		s.pool.Update(addresses(arg), s.cooldown)
		return "", Change{}
	}
	walk := s.walk(actor)
	attempt, known := s.attempts[actor+" "+arg]
	if slices.Contains([]string{"fails", "succeeds", "again", "waits"}, verb) && !known {
		s.t.Fatalf("%q: no such attempt", line)
	}
	switch verb {
	case "next":
		a, ok := walk.Next(s.now)
		return s.began(actor, a, ok, false), Change{}
	case "again":
		a, ok := walk.Again(attempt, s.now)
		return s.began(actor, a, ok, true), Change{}
	case "resumes":
		return s.began(actor, walk.Resume(s.pool.Backend(arg), s.now), true, false), Change{}
	case "probes":
		*walk = s.pool.Probe(s.pool.Backend(arg), walk.network, Listens)
		a, ok := walk.Next(s.now)
		return s.began(actor, a, ok, false), Change{}
	case "checks":
		*walk = s.pool.Probe(s.pool.Backend(arg), walk.network, Works)
		a, ok := walk.Next(s.now)
		return s.began(actor, a, ok, false), Change{}
	case "fails":
		verdict, change := walk.Failed(attempt, s.now, errRefused)
		return verdictText(verdict), change
	case "succeeds":
		return "", walk.Succeeded(attempt, s.now)
	case "exhausts":
		walk.Exhaust(s.pool.Backend(arg))
		return "", Change{}
	case "waits": // checks whether the channel of its attempt is closed
		if isClosed(attempt.Demoted()) {
			return "demoted", Change{}
		}
		return "", Change{}
	}
	s.t.Fatalf("%q: unknown verb", line)
	return "", Change{}
}

// counts returns the numbers that the Change of a step must have.
func (s *scenario) counts(line string, c Change) (available, total int) {
	actor, _, _ := strings.Cut(line, " ")
	if c.Strike == 0 && !c.Recovered && line != "operator resets" {
		return 0, 0
	}
	list := s.pool.Snapshot(s.now)
	for _, b := range list {
		if state := b.Networks[networkOf(actor)].State; state == Up || state == Struck {
			available++
		}
	}
	return available, len(list)
}

func networkOf(actor string) Network {
	if strings.HasSuffix(actor, "@udp") {
		return UDP
	}
	return TCP
}

func (s *scenario) walk(actor string) *Walk {
	if s.walks[actor] == nil {
		walk := s.pool.Walk(networkOf(actor))
		s.walks[actor] = &walk
	}
	return s.walks[actor]
}

// began stores the client's new attempt and returns the name of its backend.
func (s *scenario) began(actor string, a Attempt, ok, second bool) string {
	if !ok {
		return "refused"
	}
	if a.Second() != second || !a.Began.Equal(s.now) {
		s.t.Errorf("%s: attempt on %s has Second %v and Began %v, want %v and %v", actor, a.Backend.Text, a.Second(), a.Began, second, s.now)
	}
	s.attempts[actor+" "+a.Backend.Text] = a
	return a.Backend.Text
}

// addresses returns the addresses of the names in a list.
func addresses(list string) []Address {
	var as []Address
	for _, name := range strings.Fields(list) {
		as = append(as, Address{Text: name, Host: name, Port: 80})
	}
	return as
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func verdictText(v Verdict) string {
	return [...]string{Next: "next", Retry: "retry", RetryIfChanged: "retry if changed"}[v]
}

// changeText describes a Change by its fields that are set.
func changeText(c Change) string {
	var parts []string
	if c.Strike != 0 {
		parts = append(parts, fmt.Sprint("strike ", c.Strike))
	}
	if c.Demoted {
		parts = append(parts, "demoted")
	}
	if c.ByCheck {
		parts = append(parts, "by check")
	}
	if c.Order != nil {
		parts = append(parts, "order "+strings.Join(c.Order, " "))
	}
	if !c.CoolingUntil.IsZero() {
		parts = append(parts, fmt.Sprint("cooling until ", c.CoolingUntil.Sub(start)))
	}
	if c.AllUnavailable {
		parts = append(parts, "all unavailable")
	}
	if c.Recovered {
		parts = append(parts, fmt.Sprint("recovered after ", c.DownFor))
	}
	return strings.Join(parts, ", ")
}

// queueText describes the queue, such as "b:struck c a:down:udp-cooling". It names
// every state other than up.
func queueText(p *Pool, now time.Time) string {
	var parts []string
	for _, s := range p.Snapshot(now) {
		text := s.Backend.Text
		if state := s.Networks[TCP].State; state != Up {
			text += ":" + string(state)
		}
		if s.Networks[TCP].ByCheck {
			text += ":by-check"
		}
		if state := s.Networks[UDP].State; state != Up && state != Draining { // Draining holds for both networks and is already in the text
			text += ":udp-" + string(state)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// checkSnapshot returns an error if the snapshot of a pool contradicts itself, the
// order or the backends.
func checkSnapshot(p *Pool, now time.Time) error {
	var texts []string
	seen := make(map[int]bool)
	list := p.Snapshot(now)
	for i, s := range list {
		b := s.Backend
		texts = append(texts, b.Text)
		if s.Position != i {
			return fmt.Errorf("%s at index %d has position %d", b.Text, i, s.Position)
		}
		if s.Configured < 0 || s.Configured >= len(list) || seen[s.Configured] {
			return fmt.Errorf("%s has configured index %d of %d, which is out of range or a duplicate", b.Text, s.Configured, len(list))
		}
		seen[s.Configured] = true
		for n, ns := range s.Networks {
			n := Network(n)
			if ns.Strikes < 0 || ns.Strikes > 1 {
				return fmt.Errorf("%s %s has %d strikes, want 0 or 1", b.Text, n, ns.Strikes)
			}
			if ns.Strikes > 0 && b.Down(n) {
				return fmt.Errorf("%s %s is down and has strikes", b.Text, n)
			}
			if ns.ByCheck && ns.Strikes == 0 && !b.Down(n) {
				return fmt.Errorf("%s %s is up, but only a check ends that", b.Text, n)
			}
			if b.Down(n) == ns.DownSince.IsZero() {
				return fmt.Errorf("%s %s: down %v, but since %v", b.Text, n, b.Down(n), ns.DownSince)
			}
			if (ns.State == Cooling) != ns.CoolingUntil.After(now) {
				return fmt.Errorf("%s %s is %s until %v, but the time is %v", b.Text, n, ns.State, ns.CoolingUntil, now)
			}
			if ns.State != Draining {
				if down := ns.State == Down || ns.State == Cooling; down != b.Down(n) {
					return fmt.Errorf("%s %s is %s, but down is %v", b.Text, n, ns.State, b.Down(n))
				}
				if (ns.State == Struck) != (ns.Strikes == 1) {
					return fmt.Errorf("%s %s is %s with %d strikes", b.Text, n, ns.State, ns.Strikes)
				}
			}
		}
	}
	if order := p.Order(); !slices.Equal(order, texts) {
		return fmt.Errorf("order %v, but the snapshot has %v", order, texts)
	}
	return nil
}

// demotion returns the steps of a client that fails twice on the first backend of
// the queue and thereby demotes it.
func demotion(client, backend, change, queueStruck, queue string) []step {
	return []step{
		{client + " next", backend, "", ""},
		{client + " fails " + backend, "retry", "strike 1", queueStruck},
		{client + " again " + backend, backend, "", ""},
		{client + " fails " + backend, "next", "strike 2, demoted" + change, queue},
	}
}

// bothDown returns the steps that demote a and then b of the queue "a b".
func bothDown() []step {
	return slices.Concat(
		demotion("ann", "a", ", order b a", "a:struck b", "b a:down"),
		demotion("bob", "b", ", order a b, all unavailable", "b:struck a:down", "a:down b:down"),
	)
}

// recovery returns the steps of a successful probe of a down backend.
func recovery(backend, queue string) []step {
	probe := "probe-" + backend
	return []step{
		{probe + " probes " + backend, backend, "", ""},
		{probe + " succeeds " + backend, "", "recovered after 0s", queue},
	}
}
