package upstream

import (
	"fmt"
	"slices"
	"time"
)

// model is a second, simple implementation of the rules of the queue. It uses the
// order of calls instead of generations and lists instead of ranks. It is called
// for every call of the pool and returns the expected result.
type model struct {
	tick       int // incremented by each call
	cooldown   time.Duration
	configured []*Backend
	moved      []*Backend // all demoted backends, the latest demotion last
	records    map[*Backend]*record
	reported   [networks]bool // all_backends_unavailable was reported and no attempt has succeeded since

	demotions, recoveries, allUnavailable int // totals
}

type record struct {
	drained bool
	on      [networks]networkRecord
}

// networkRecord holds the expected state of a backend on one network, and what the
// current outage has cost.
type networkRecord struct {
	latest       [2]int // by evidence: the tick of the latest strike, success, demotion, recovery by a check or reset
	latestMove   int    // the tick of the latest demotion
	struckAt     int    // the tick of the strike that stands
	strikes      int
	down         bool
	byCheck      bool // the strike or down includes a failed check
	downSince    time.Time
	coolingUntil time.Time

	failed, succeeded, demotions uint64

	// The cost since a success ended the latest strike or down, even if the machine
	// was alive for a while without one.
	strikesSince, demotionsSince int
	recoveriesSinceDemotion      int

	outage outage // the current or latest outage of the machine
}

// outage counts what one outage of a machine has cost its backend on one network:
// at most two strikes and one move, however long it lasts and however many clients
// fail.
//
// An attempt may succeed before the outage and be reported during it. To the pool
// this looks as if the machine had been alive for a moment, so it is the end of one
// outage and the beginning of another. Each such late success therefore allows the
// full cost once more. There are at most as many as attempts in progress when the
// machine died. Failures of attempts from before the outage need no exception: they
// count once, as a part of the cost of the outage.
type outage struct {
	strikes, moves, lateSuccesses int
}

// charge adds the cost of one change and fails if the outage has cost too much.
func (o *outage) charge(c Change) {
	if c.Strike > 0 {
		o.strikes++
	}
	if c.Demoted {
		o.moves++
	}
	if times := 1 + o.lateSuccesses; o.strikes > 2*times || o.moves > times {
		fail("one outage with %d late successes cost %d strikes and %d moves", o.lateSuccesses, o.strikes, o.moves)
	}
}

func newModel(p *Pool, cooldown time.Duration) *model {
	m := &model{cooldown: cooldown, records: make(map[*Backend]*record)}
	m.update(p)
	return m
}

func (m *model) next() int { m.tick++; return m.tick }

// update adopts the backends of a new or updated pool. The pool decides which of
// them are new. The caller checks that it keeps the old ones.
func (m *model) update(p *Pool) {
	before := m.queue()
	m.configured = slices.Clone(p.backends())
	slices.SortFunc(m.configured, func(a, b *Backend) int { return a.configured - b.configured })
	for _, b := range m.configured {
		if m.records[b] == nil {
			m.records[b] = &record{}
		}
	}
	gone := func(b *Backend) bool { return !slices.Contains(m.configured, b) }
	// The first backend that stays counts as never moved if it is up.
	if stay := slices.DeleteFunc(before, gone); len(stay) > 0 && !stay[0].Down(TCP) && !stay[0].Down(UDP) {
		m.moved = slices.DeleteFunc(m.moved, func(b *Backend) bool { return b == stay[0] })
	}
	m.moved = slices.DeleteFunc(m.moved, gone)
	for n := range networks {
		m.reported[n] = m.reported[n] && m.allDown(n)
	}
}

// queue returns the expected queue: first the backends that were never moved, as
// configured, then the moved ones.
func (m *model) queue() []*Backend {
	var q []*Backend
	for _, b := range m.configured {
		if !slices.Contains(m.moved, b) {
			q = append(q, b)
		}
	}
	return append(q, m.moved...)
}

func (m *model) order() []string {
	var texts []string
	for _, b := range m.queue() {
		texts = append(texts, b.Text)
	}
	return texts
}

func (m *model) allDown(n Network) bool {
	for _, b := range m.configured {
		if r := m.records[b]; !r.drained && !r.on[n].down {
			return false
		}
	}
	return true
}

// choice returns the backend that Next must offer to a client with a set of
// exhausted backends, or nil if the client must be refused.
func (m *model) choice(n Network, exhausted map[*Backend]bool, now time.Time) *Backend {
	var coolest *Backend
	for _, b := range m.queue() {
		r := m.records[b]
		switch until := r.on[n].coolingUntil; {
		case r.drained || exhausted[b]:
		case !until.After(now):
			return b
		case coolest == nil || until.Before(m.records[coolest].on[n].coolingUntil):
			coolest = b
		}
	}
	return coolest
}

// failed records a failure of an attempt that began at a tick and returns the
// expected result.
func (m *model) failed(b *Backend, n Network, e Evidence, began int, second bool, now time.Time) (Verdict, Change) {
	r := &m.records[b].on[n]
	r.failed++
	var change Change
	movedSince := r.latestMove > began
	counts := r.latest[e] < began && (r.strikes == 0 || r.struckAt < began)
	isDown := r.down && counts
	if counts && e == Works {
		r.byCheck = true
	}
	if counts && !r.down {
		r.struckAt = m.next()
		r.latest[e] = r.struckAt
		r.strikes++
		r.strikesSince++
		change.Strike, change.ByCheck = r.strikes, r.byCheck
		if r.strikes == 2 {
			m.demote(b, n, now, &change)
		}
		m.count(n, &change)
	}
	switch {
	case second, movedSince, change.Demoted:
		return Next, change
	case isDown:
		return RetryIfChanged, change
	}
	return Retry, change
}

func (m *model) demote(b *Backend, n Network, now time.Time, change *Change) {
	m.demotions++
	r := &m.records[b].on[n]
	r.latest = [2]int{m.tick, m.tick}
	r.latestMove = m.tick
	r.strikes, r.down, r.downSince = 0, true, now
	r.demotions++
	r.demotionsSince++
	r.recoveriesSinceDemotion = 0
	change.Demoted = true
	if m.cooldown > 0 {
		r.coolingUntil = now.Add(m.cooldown)
		change.CoolingUntil = r.coolingUntil
	}
	before := m.order()
	if slices.Contains(m.configured, b) { // a removed backend is in no queue
		m.moved = append(slices.DeleteFunc(m.moved, func(o *Backend) bool { return o == b }), b)
	}
	if after := m.order(); !slices.Equal(before, after) {
		change.Order = after
	}
	if !m.reported[n] && m.allDown(n) {
		m.reported[n] = true
		change.AllUnavailable = true
		m.allUnavailable++
	}
}

func (m *model) succeeded(b *Backend, n Network, e Evidence, now time.Time) Change {
	r := &m.records[b].on[n]
	r.latest[e] = m.next()
	r.succeeded++
	switch {
	case r.down && r.byCheck && e == Listens:
		return Change{} // it stays down
	case !r.down && r.byCheck != (e == Works): // the strike, if there is one, is of the other kind
		m.reported[n] = false
		return Change{}
	}
	m.reported[n] = false
	var change Change
	if r.down {
		m.recoveries++
		r.recoveriesSinceDemotion++
		change = Change{Recovered: true, DownFor: now.Sub(r.downSince)}
		if e == Works {
			r.latest = [2]int{m.tick, m.tick}
		}
	}
	r.clear()
	if change.Recovered {
		m.count(n, &change)
	}
	return change
}

// clear does what a success and a reset have in common.
func (r *networkRecord) clear() {
	r.strikes, r.down, r.byCheck, r.downSince, r.coolingUntil = 0, false, false, time.Time{}, time.Time{}
	r.strikesSince, r.demotionsSince = 0, 0
}

// check returns an error if the pool differs from the model, or if an outage cost
// too much.
func (m *model) check(p *Pool, now time.Time) error {
	if err := checkSnapshot(p, now); err != nil {
		return err
	}
	if got, want := p.Order(), m.order(); !slices.Equal(got, want) {
		return fmt.Errorf("order %v, want %v", got, want)
	}
	for _, s := range p.Snapshot(now) {
		for n, got := range s.Networks {
			r := &m.records[s.Backend].on[n]
			if got.Strikes != r.strikes || got.ByCheck != r.byCheck || !got.DownSince.Equal(r.downSince) || got.Succeeded != r.succeeded || got.Failed != r.failed || got.Demotions != r.demotions {
				return fmt.Errorf("%s %s is %+v, want %+v", s.Backend.Text, Network(n), got, *r)
			}
			if (got.State == Draining) != m.records[s.Backend].drained {
				return fmt.Errorf("%s is %s, want drained %v", s.Backend.Text, got.State, m.records[s.Backend].drained)
			}
			if r.strikesSince > 2 || r.demotionsSince > 1 || r.recoveriesSinceDemotion > 1 {
				return fmt.Errorf("%s %s: one outage cost too much: %+v", s.Backend.Text, Network(n), *r)
			}
		}
	}
	return nil
}
