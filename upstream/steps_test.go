package upstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// start is when every pool of the tests is made. Nothing here reads a clock.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var errRefused = errors.New("connection refused")

// step is one row of a story: somebody does something, and that is all that
// comes of it. The rules are told as stories because they are about sequences.
type step struct {
	do     string // "who verb what", see story.play
	told   string // what the actor learns: a backend, "refused" or a verdict
	change string // what the report did, see changeText; "" for nothing at all
	queue  string // the queue afterwards, see queueText; "" for as it was before
}

// story plays steps on one pool. A client is made by its first mention; its
// name ends in @udp if it is one of UDP.
type story struct {
	t        *testing.T
	pool     *Pool
	cooldown time.Duration
	now      time.Time
	walks    map[string]*Walk
	attempts map[string]Attempt // the client's latest on a backend, by "client backend"
	last     string             // the queue after the step before
}

// play tells a story of the backends and checks every step of it; that changes
// count the backends as the snapshot does goes without saying.
func play(t *testing.T, backends string, cooldown time.Duration, steps []step) {
	t.Helper()
	s := &story{
		t: t, now: start, cooldown: cooldown,
		pool:     NewPool(addresses(backends), cooldown, start),
		walks:    make(map[string]*Walk),
		attempts: make(map[string]Attempt),
		last:     backends,
	}
	for i, row := range steps {
		told, change := s.do(row.do)
		if told != row.told {
			t.Errorf("step %d, %q: told %q, want %q", i+1, row.do, told, row.told)
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
			t.FailNow() // what follows would only repeat it
		}
	}
}

func (s *story) do(line string) (told string, change Change) {
	who, rest, _ := strings.Cut(line, " ")
	verb, what, _ := strings.Cut(rest, " ")
	switch who + " " + verb {
	case "time passes":
		d, err := time.ParseDuration(what)
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
		return "", Change{}
	case "operator drains", "operator resumes":
		changed, err := s.pool.SetDrained(s.pool.Backend(what), verb == "drains")
		if err != nil {
			return err.Error(), Change{}
		}
		if !changed {
			return "no news", Change{}
		}
		return "", Change{}
	case "operator resets":
		return "", s.pool.Reset()
	case "checker returns":
		return "", s.pool.Failback(s.pool.Backend(what))
	case "operator loads":
		s.pool.Update(addresses(what), s.cooldown)
		return "", Change{}
	}
	walk := s.walk(who)
	held, known := s.attempts[who+" "+what]
	if slices.Contains([]string{"fails", "succeeds", "again", "waits"}, verb) && !known {
		s.t.Fatalf("%q: no such attempt", line)
	}
	switch verb {
	case "next":
		a, ok := walk.Next(s.now)
		return s.began(who, a, ok, false), Change{}
	case "again":
		a, ok := walk.Again(held, s.now)
		return s.began(who, a, ok, true), Change{}
	case "resumes":
		return s.began(who, walk.Resume(s.pool.Backend(what), s.now), true, false), Change{}
	case "probes":
		*walk = s.pool.Probe(s.pool.Backend(what), walk.network)
		a, ok := walk.Next(s.now)
		return s.began(who, a, ok, false), Change{}
	case "fails":
		verdict, change := walk.Failed(held, s.now, errRefused)
		return verdictText(verdict), change
	case "succeeds":
		return "", walk.Succeeded(held, s.now)
	case "exhausts":
		walk.Exhaust(s.pool.Backend(what))
		return "", Change{}
	case "waits": // still, on an attempt: was it told to go on?
		if isClosed(held.Demoted()) {
			return "go on", Change{}
		}
		return "", Change{}
	}
	s.t.Fatalf("%q: unknown verb", line)
	return "", Change{}
}

// counts is what the change of a step must say of how many are available.
func (s *story) counts(line string, c Change) (available, total int) {
	who, _, _ := strings.Cut(line, " ")
	if c.Strike == 0 && !c.Recovered && line != "operator resets" {
		return 0, 0
	}
	list := s.pool.Snapshot(s.now)
	for _, b := range list {
		if state := b.Networks[networkOf(who)].State; state == Up || state == Struck {
			available++
		}
	}
	return available, len(list)
}

func networkOf(who string) Network {
	if strings.HasSuffix(who, "@udp") {
		return UDP
	}
	return TCP
}

func (s *story) walk(who string) *Walk {
	if s.walks[who] == nil {
		walk := s.pool.Walk(networkOf(who))
		s.walks[who] = &walk
	}
	return s.walks[who]
}

// began keeps the client's new attempt and names its backend.
func (s *story) began(who string, a Attempt, ok, second bool) string {
	if !ok {
		return "refused"
	}
	if a.Second() != second || !a.Began.Equal(s.now) {
		s.t.Errorf("%s: attempt on %s has Second %v and Began %v, want %v and %v", who, a.Backend.Text, a.Second(), a.Began, second, s.now)
	}
	s.attempts[who+" "+a.Backend.Text] = a
	return a.Backend.Text
}

// addresses makes backends of the names in a list.
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

// changeText tells a change in words, every field that is set.
func changeText(c Change) string {
	var parts []string
	if c.Strike != 0 {
		parts = append(parts, fmt.Sprint("strike ", c.Strike))
	}
	if c.Demoted {
		parts = append(parts, "demoted")
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

// queueText tells the queue in words, such as "b:struck c a:down:udp-cooling":
// what is not up on a network is said.
func queueText(p *Pool, now time.Time) string {
	var parts []string
	for _, s := range p.Snapshot(now) {
		text := s.Backend.Text
		if state := s.Networks[TCP].State; state != Up {
			text += ":" + string(state)
		}
		if state := s.Networks[UDP].State; state != Up && state != Draining { // which holds for both, and was said
			text += ":udp-" + string(state)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// checkSnapshot says where a pool's snapshot contradicts itself, the order or
// the backends.
func checkSnapshot(p *Pool, now time.Time) error {
	var texts []string
	seen := make(map[int]bool)
	list := p.Snapshot(now)
	for i, s := range list {
		b := s.Backend
		texts = append(texts, b.Text)
		if s.Position != i {
			return fmt.Errorf("%s at place %d says position %d", b.Text, i, s.Position)
		}
		if s.Configured < 0 || s.Configured >= len(list) || seen[s.Configured] {
			return fmt.Errorf("%s has configured place %d of %d, which is taken or none", b.Text, s.Configured, len(list))
		}
		seen[s.Configured] = true
		for n, ns := range s.Networks {
			n := Network(n)
			if ns.Strikes < 0 || ns.Strikes > 1 {
				return fmt.Errorf("%s %s has %d strikes at rest", b.Text, n, ns.Strikes)
			}
			if ns.Strikes > 0 && b.Down(n) {
				return fmt.Errorf("%s %s is down and has strikes", b.Text, n)
			}
			if b.Down(n) == ns.DownSince.IsZero() {
				return fmt.Errorf("%s %s: down %v, but since %v", b.Text, n, b.Down(n), ns.DownSince)
			}
			if (ns.State == Cooling) != ns.CoolingUntil.After(now) {
				return fmt.Errorf("%s %s is %s until %v, and it is %v", b.Text, n, ns.State, ns.CoolingUntil, now)
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
		return fmt.Errorf("order %v, but the snapshot says %v", order, texts)
	}
	return nil
}
