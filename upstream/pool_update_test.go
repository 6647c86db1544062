package upstream

import (
	"slices"
	"testing"
	"time"
)

// A reload keeps strikes, down, drained and the place at the end, whatever the new
// position is. New backends enter at their configured place.
func TestUpdateKeepsState(t *testing.T) {
	play(t, "a b c d", 0, slices.Concat(
		demotion("ann", "a", ", order b c d a", "a:struck b c d", "b c d a:down"),
		[]step{
			{"bob next", "b", "", ""},
			{"bob fails b", "retry", "strike 1", "b:struck c d a:down"},
			{"operator drains c", "", "", "b:struck c:draining d a:down"},
			{"operator loads a d c b", "", "", "d c:draining b:struck a:down"},
			{"operator loads e a d f c b g", "", "", "e d f c:draining b:struck g a:down"},
			// The strike from before the reload counts.
			{"cid next", "e", "", ""},
			{"bob again b", "b", "", ""},
			{"bob fails b", "next", "strike 2, demoted, order e d f c g a b", "e d f c:draining g a:down b:down"},
		},
	))
}

// Demoted backends stay at the end in the order of their demotions, even if they have
// recovered.
func TestUpdateKeepsTheOrderOfDemotions(t *testing.T) {
	play(t, "a b c", 0, slices.Concat(
		demotion("ann", "a", ", order b c a", "a:struck b c", "b c a:down"),
		demotion("bob", "b", ", order c a b", "b:struck c a:down", "c a:down b:down"),
		[]step{
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "c a b:down"},
			{"operator loads b a c", "", "", "c a b:down"},
			{"operator loads b a n c", "", "", "n c a b:down"},
			{"operator loads b a", "", "", "a b:down"},
		},
	))
}

func TestUpdateKeepsCooldowns(t *testing.T) {
	play(t, "a b", time.Minute, slices.Concat(
		demotion("ann", "a", ", order b a, cooling until 1m0s", "a:struck b", "b a:cooling"),
		[]step{
			{"operator loads a b c", "", "", "b c a:cooling"},
			{"time passes 59s", "", "", ""},
			{"operator loads a", "", "", "a:cooling"},
			{"time passes 1s", "", "", "a:down"},
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 1m0s", "a"},
		},
	))
}

// A new cooldown applies to later demotions.
func TestUpdateChangesTheCooldown(t *testing.T) {
	p := NewPool(addresses("a"), 0, start)
	p.Update(addresses("a"), time.Minute)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	walk.Failed(a, start, errRefused)
	a, _ = walk.Again(a, start)
	_, change := walk.Failed(a, start, errRefused)
	if want := start.Add(time.Minute); !change.CoolingUntil.Equal(want) {
		t.Errorf("cooling until %v, want %v", change.CoolingUntil, want)
	}
}

// A removed backend is not offered. Attempts in progress on it continue, but do not
// change the queue.
func TestRemovedBackendIsNotOffered(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"bob next", "a", "", ""},
		{"operator loads b c", "", "", "b c"},
		{"cid next", "b", "", ""},
		{"ann fails a", "retry", "strike 1", ""},
		{"ann again a", "a", "", ""},
		{"bob succeeds a", "", "", ""},
		{"ann fails a", "next", "", ""},
		{"ann next", "b", "", ""},
		{"ann exhausts b", "", "", ""},
		{"ann next", "c", "", ""},
		{"ann exhausts c", "", "", ""},
		{"ann next", "refused", "", ""},
	})
}

// A backend that was removed and added again is a new backend. A demotion of the
// removed one does not move it.
func TestReaddedBackendIsNew(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"ann again a", "a", "", ""},
		{"operator loads b", "", "", "b"},
		{"operator loads a b", "", "", "a b"},
		{"ann fails a", "next", "strike 2, demoted", ""},
		{"bob next", "a", "", ""},
		{"ann next", "a", "", ""}, // she has not tried the new a
	})
}

// A backend whose text stays and whose address changes is a new backend, because it
// is another machine.
func TestChangedAddressIsANewBackend(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	old := p.Backend("a")
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	walk.Failed(a, start, errRefused)
	changed := addresses("a b")
	changed[0].Host = "elsewhere"
	p.Update(changed, 0)
	if got := queueText(p, start); got != "a b" {
		t.Errorf("queue %q, want %q", got, "a b")
	}
	if p.Backend("a") == old || p.Backend("a").Host != "elsewhere" {
		t.Error("the old backend was kept")
	}
	if p.Backend("none") != nil {
		t.Error("found a backend that does not exist")
	}
}

// Removing a backend of a pool whose backends are all down does not report
// all_backends_unavailable again. After a new backend was added, the next outage is
// reported.
func TestUpdateAndAllUnavailable(t *testing.T) {
	outage := bothDown()
	t.Run("fewer", func(t *testing.T) {
		play(t, "a b", 0, slices.Concat(outage,
			[]step{
				{"operator loads a", "", "", "a:down"},
				{"cid next", "a", "", ""},
				{"cid fails a", "retry if changed", "", ""},
				{"p probes a", "a", "", ""},
				{"p succeeds a", "", "recovered after 0s", "a"},
			},
			demotion("dan", "a", ", all unavailable", "a:struck", "a:down"),
		))
	})
	t.Run("the same", func(t *testing.T) {
		play(t, "a c", 0, slices.Concat(
			[]step{{"operator drains c", "", "", "a c:draining"}},
			demotion("ann", "a", ", order c a, all unavailable", "a:struck c:draining", "c:draining a:down"),
			[]step{
				{"operator loads a c", "", "", ""},
				{"operator resumes c", "", "", "c a:down"},
			},
			demotion("bob", "c", ", order a c", "c:struck a:down", "a:down c:down"),
		))
	})
	t.Run("more", func(t *testing.T) {
		play(t, "a b", 0, slices.Concat(outage,
			[]step{{"operator loads a b c", "", "", "c a:down b:down"}},
			demotion("cid", "c", ", order a b c, all unavailable", "c:struck a:down b:down", "a:down b:down c:down"),
		))
	})
}

// If all backends were demoted at some time and are up again, a new one that is
// configured last does not become the first.
func TestNewBackendDoesNotOvertakeFirst(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		demotion("ann", "a", ", order b a", "a:struck b", "b a:down"),
		recovery("a", "b a"),
		demotion("bob", "b", ", order a b", "b:struck a", "a b:down"),
		[]step{
			{"q probes b", "b", "", ""},
			{"q succeeds b", "", "recovered after 0s", "a b"},
			{"operator loads a b c", "", "", "a c b"},
			{"operator loads n a b c", "", "", "n a c b"},
		},
	))
}
