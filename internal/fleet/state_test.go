package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// node is a State with its pool: the services web (a, b) and mail (c).
type node struct {
	*State
	downAt map[Target]uint64
}

func newNode(id string) *node {
	n := &node{State: NewState(id), downAt: make(map[Target]uint64)}
	n.observe()
	return n
}

func (n *node) observe() bool {
	web := Service{Key: "web", Backends: []string{"a", "b"}}
	for t, count := range n.downAt {
		web.Down = append(web.Down, Claim{t, count})
	}
	return n.Observe([]Service{web, {Key: "mail", Backends: []string{"c"}}})
}

func target(backend string) Target { return Target{"web", backend, "tcp"} }

// reads merges the record of another node as it is published now.
func (n *node) reads(from *node, now time.Time) []string {
	return texts(n.Merge(from.Record(now), now))
}

// texts returns actions in words.
func texts(actions []Action) (list []string) {
	for _, a := range actions {
		switch a.Do {
		case Suspect:
			list = append(list, fmt.Sprintf("suspect %s by %s", a.Target.Backend, a.Node))
		case Unsuspect:
			list = append(list, fmt.Sprintf("unsuspect %s by %s", a.Target.Backend, a.Node))
		case Joined, Left, Vanished:
			list = append(list, map[Do]string{Joined: "joined ", Left: "left ", Vanished: "vanished "}[a.Do]+a.Node)
		case Repeat:
			o := a.Operation
			list = append(list, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %v by %s", o.Kind, o.Service, o.Backend, o.On, a.Node)), " "))
		}
	}
	return list
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("actions %q, want %q", got, want)
	}
}

// A claim raises a suspicion once. Another outage raises it again.
func TestClaimIsASuspicionOnce(t *testing.T) {
	one, two := newNode("one"), newNode("two")
	want(t, two.reads(one, start), "joined one")
	one.downAt[target("a")] = 1
	if !one.observe() {
		t.Error("a demotion is not published at once")
	}
	want(t, two.reads(one, start), "suspect a by one")
	want(t, two.reads(one, start)) // a heartbeat
	one.downAt[target("a")] = 2    // recovered and demoted between two reads
	one.observe()
	want(t, two.reads(one, start), "suspect a by one")
	delete(one.downAt, target("a"))
	if !one.observe() {
		t.Error("a recovery is not published at once")
	}
	want(t, two.reads(one, start), "unsuspect a by one")
	if one.observe() {
		t.Error("no change is published at once")
	}
}

// A suspicion is withdrawn when no node claims it any more.
func TestSuspicionOfTwoNodes(t *testing.T) {
	one, two, three := newNode("one"), newNode("two"), newNode("three")
	for _, n := range []*node{one, two} {
		n.downAt[target("a")] = 1
		n.observe()
	}
	want(t, three.reads(one, start), "joined one", "suspect a by one")
	want(t, three.reads(two, start), "joined two", "suspect a by two")
	delete(one.downAt, target("a"))
	one.observe()
	want(t, three.reads(one, start))
	want(t, texts(three.Scanned([]string{"one"}, start)), "left two", "unsuspect a by two")
}

// Claims about services and backends that a node does not have wait until it has them.
func TestClaimAboutAnUnknownBackend(t *testing.T) {
	one, two := newNode("one"), newNode("two")
	one.downAt[target("x")] = 1
	one.observe()
	want(t, two.reads(one, start), "joined one")
	two.Observe([]Service{{Key: "web", Backends: []string{"a", "x"}}})
	want(t, two.reads(one, start), "suspect x by one")
}

// Records that were read before, old copies and a node's own record change nothing.
func TestOldRecords(t *testing.T) {
	one, two := newNode("one"), newNode("two")
	old := one.Record(start)
	one.downAt[target("a")] = 1
	one.observe()
	latest := one.Record(start)
	want(t, texts(two.Merge(latest, start)), "joined one", "suspect a by one")
	want(t, texts(two.Merge(latest, start)))
	want(t, texts(two.Merge(old, start)))
	want(t, texts(one.Merge(latest, start)))
}

// An operation is repeated by every other node once, and not by the one that had it
// first, whatever the way on which it comes back.
func TestOperationsDoNotEcho(t *testing.T) {
	one, two, three := newNode("one"), newNode("two"), newNode("three")
	for _, n := range []*node{one, two, three} {
		n.Scanned(nil, start)
	}
	one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a", On: true, By: "ann"}, start)
	one.Operate(Operation{Kind: Reset, Service: "web", By: "ann"}, start)
	want(t, two.reads(one, start), "joined one", "drain web a true by one", "reset web false by one")
	want(t, three.reads(two, start), "joined two", "drain web a true by one", "reset web false by one") // over two
	want(t, three.reads(one, start), "joined one")
	want(t, one.reads(two, start), "joined two")
	want(t, one.reads(three, start), "joined three")
	want(t, two.reads(three, start), "joined three")
}

// Of two concurrent operations all nodes choose the same one.
func TestLastWriterWins(t *testing.T) {
	for _, first := range []string{"one", "two"} {
		one, two, three := newNode("one"), newNode("two"), newNode("three")
		one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a", On: true}, start)
		two.Operate(Operation{Kind: Drain, Service: "web", Backend: "a"}, start)
		all := map[string]*node{"one": one, "two": two}
		second := map[string]string{"one": "two", "two": "one"}[first]
		three.reads(all[first], start)
		three.reads(all[second], start)
		one.reads(two, start)
		two.reads(one, start)
		for _, n := range []*node{one, two, three} {
			if o := n.latest[key{Drain, "web", "a"}]; o.Node != "two" {
				t.Errorf("%s has the operation of %s, want that of two", n.id, o.Node)
			}
		}
		// A later operation wins, wherever it is done.
		one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a", On: true}, start)
		want(t, two.reads(one, start), "drain web a true by one")
	}
}

// The remaining time of a hold is measured by the clocks of the nodes, whose times of day
// differ.
func TestTimeLeft(t *testing.T) {
	one, two, three := newNode("one"), newNode("two"), newNode("three")
	one.Operate(Operation{Kind: Hold, Service: "web", On: true, Left: 60_000}, start)
	r := one.Record(start.Add(20 * time.Second))
	if got := r.Operations[0].Left; got != 40_000 {
		t.Fatalf("%d ms are left, want 40000", got)
	}
	skewed := start.AddDate(-10, 0, 0)
	two.Scanned(nil, skewed)
	actions := two.Merge(r, skewed)
	if got := actions[1].Operation.Left; got != 40_000 {
		t.Errorf("two holds for %d ms, want 40000", got)
	}
	if got := two.Record(skewed.Add(30 * time.Second)).Operations[0].Left; got != 10_000 {
		t.Errorf("two publishes %d ms, want 10000", got)
	}
	want(t, texts(three.Merge(two.Record(skewed.Add(time.Hour)), start)), "joined two") // over
}

// A node that joins takes over drains, and not the resets from before its time.
func TestJoining(t *testing.T) {
	one, two := newNode("one"), newNode("two")
	one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a", On: true}, start)
	one.Operate(Operation{Kind: Reset, Service: "web"}, start)
	want(t, two.reads(one, start), "joined one", "drain web a true by one")
	two.Scanned([]string{"one"}, start)
	one.Operate(Operation{Kind: Reset, Service: "web"}, start)
	want(t, two.reads(one, start), "reset web false by one")
	// A drain outlives the node on which it was requested, and a restart of the other.
	restarted := newNode("two-again")
	want(t, restarted.reads(two, start), "joined two", "drain web a true by one")
}

// Nodes vanish by the clock of the reader, unless it could not read.
func TestVanishedNodes(t *testing.T) {
	one, two := newNode("one"), newNode("two")
	one.downAt[target("a")] = 1
	one.observe()
	r := one.Record(start)
	two.Merge(r, start)
	limit := (missedBeats + 1) * minBeat
	want(t, texts(two.Scanned([]string{"one"}, start.Add(limit))))
	two.Resume(start.Add(time.Hour))
	want(t, texts(two.Scanned([]string{"one"}, start.Add(time.Hour+limit))))
	end := start.Add(time.Hour + limit + 1)
	want(t, texts(two.Scanned([]string{"one"}, end)), "vanished one", "unsuspect a by one")
	want(t, texts(two.Merge(r, end)))
	want(t, texts(two.Scanned([]string{"one"}, end)))
	if got := two.Abandoned(abandonAfter, end.Add(abandonAfter)); !slices.Equal(got, []string{"one"}) {
		t.Errorf("abandoned: %v", got)
	}
	want(t, two.reads(one, end), "joined one", "suspect a by one") // it was frozen
	if got := two.Abandoned(abandonAfter, end.Add(abandonAfter)); got != nil {
		t.Errorf("abandoned: %v", got)
	}
}

func TestBeatGrowsWithTheFleet(t *testing.T) {
	s := NewState("one")
	for i, want := range map[int]time.Duration{0: 10 * time.Second, 99: 10 * time.Second, 999: 100 * time.Second, 9999: 10 * time.Minute} {
		s.peers = make(map[string]*peer)
		for n := range i {
			s.peers[fmt.Sprint(n)] = new(peer)
		}
		if got := s.Beat(); got != want {
			t.Errorf("%d peers: %s, want %s", i, got, want)
		}
	}
}

// The first record that a node reads of another one may be of a node that crashed long
// ago. Its holds and drills wait until the record advances, its drains do not.
func TestOldHolds(t *testing.T) {
	one, two := newNode("one"), newNode("two")
	one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a", On: true}, start)
	one.Operate(Operation{Kind: Hold, Service: "web", On: true, Left: 60_000}, start)
	old := one.Record(start)
	later := start.Add(10 * time.Second)
	want(t, texts(two.Merge(old, later)), "joined one", "drain web a true by one")
	two.Scanned([]string{"one"}, later)
	want(t, texts(two.Merge(old, later)))
	if two.Temporary(later) {
		t.Error("the node holds")
	}
	actions := two.Merge(one.Record(later), later)
	want(t, texts(actions), "hold web true by one")
	if got := actions[0].Operation.Left; got != 50_000 {
		t.Errorf("it holds for %d ms, want 50000", got)
	}
	if !two.Temporary(later) || two.Temporary(later.Add(time.Hour)) {
		t.Error("the hold does not end")
	}
}

// A backend that is removed from the config and added again gets its drain again from
// the other nodes, also if it was requested here.
func TestForgottenDrain(t *testing.T) {
	one, two := newNode("one"), newNode("two")
	one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a", On: true}, start)
	two.reads(one, start)
	one.Observe([]Service{{Key: "web", Backends: []string{"b"}}})
	one.observe()
	want(t, one.reads(two, start), "joined two", "drain web a true by one")
}

// Of the operations in a record, those that resume a backend come first: a pool refuses
// to drain the last backend that is not drained. The clocks do not tell the order,
// because an operation that changed nothing has one too.
func TestResumesComeBeforeDrains(t *testing.T) {
	one, two := newNode("one"), newNode("two")
	one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a", On: true}, start) // two restores this from its memory
	one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a"}, start)
	one.Operate(Operation{Kind: Drain, Service: "web", Backend: "b", On: true}, start)
	one.Operate(Operation{Kind: Drain, Service: "web", Backend: "a"}, start)
	want(t, two.reads(one, start), "joined one", "drain web a false by one", "drain web b true by one")
}
