package upstream

import (
	"fmt"
	"slices"
	"time"
)

// ledger is the rules of the queue kept a second time, the slow and plain way:
// by the order of events instead of generations, by lists instead of ranks. It
// hears of every call that is made to a pool and says what must come of it.
type ledger struct {
	tick       int // one for each call; later is greater
	cooldown   time.Duration
	configured []*Backend
	moved      []*Backend // those ever demoted, latest last
	records    map[*Backend]*record
	reported   [networks]bool // all_backends_unavailable was, and nobody has succeeded since

	demotions, recoveries, allUnavailable int // in all
}

type record struct {
	drained bool
	on      [networks]networkRecord
}

// networkRecord holds, besides what the pool knows too, what an outage costs.
type networkRecord struct {
	latest       int // the tick of the latest strike, success, demotion or reset
	latestMove   int // of the latest demotion
	strikes      int
	down         bool
	downSince    time.Time
	coolingUntil time.Time

	failed, succeeded, demotions uint64

	// The price since the last success, however often the machine behind came
	// and went meanwhile without anybody succeeding.
	strikesSince, demotionsSince int
	recoveriesSinceDemotion      int

	outage outage // of the machine behind, the present or the last one
}

// outage is what it costs a backend on one network that its machine is dead:
// at most two strikes and one move, whoever meets it and however long it lasts.
//
// A success that was settled before the outage and is reported during it is,
// to anybody who only hears reports, the end of one outage and the beginning
// of the next. No rule can tell it from a machine that came back for a moment,
// so each such success, of which there are no more than attempts that were
// under way when the machine died, allows the price once more. Failures of
// attempts from before are no trouble: they count, once, as what the outage
// would cost anyway.
type outage struct {
	strikes, moves, lateSuccesses int
}

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

func newLedger(p *Pool, cooldown time.Duration) *ledger {
	l := &ledger{cooldown: cooldown, records: make(map[*Backend]*record)}
	l.update(p)
	return l
}

func (l *ledger) next() int { l.tick++; return l.tick }

// update takes over the backends of a pool that was made or updated. Their
// identities are the pool's to choose; that old ones are kept is checked by
// those who call it.
func (l *ledger) update(p *Pool) {
	before := l.queue()
	l.configured = slices.Clone(p.backends())
	slices.SortFunc(l.configured, func(a, b *Backend) int { return a.configured - b.configured })
	for _, b := range l.configured {
		if l.records[b] == nil {
			l.records[b] = &record{}
		}
	}
	gone := func(b *Backend) bool { return !slices.Contains(l.configured, b) }
	// A leader that works is as good as never moved.
	if stay := slices.DeleteFunc(before, gone); len(stay) > 0 && !stay[0].Down(TCP) && !stay[0].Down(UDP) {
		l.moved = slices.DeleteFunc(l.moved, func(b *Backend) bool { return b == stay[0] })
	}
	l.moved = slices.DeleteFunc(l.moved, gone)
	for n := range networks {
		l.reported[n] = l.reported[n] && l.allDown(n)
	}
}

// queue is first those never moved, as configured, then the moved ones.
func (l *ledger) queue() []*Backend {
	var q []*Backend
	for _, b := range l.configured {
		if !slices.Contains(l.moved, b) {
			q = append(q, b)
		}
	}
	return append(q, l.moved...)
}

func (l *ledger) order() []string {
	var texts []string
	for _, b := range l.queue() {
		texts = append(texts, b.Text)
	}
	return texts
}

func (l *ledger) allDown(n Network) bool {
	for _, b := range l.configured {
		if r := l.records[b]; !r.drained && !r.on[n].down {
			return false
		}
	}
	return true
}

// choice is whom a client that is through with some must be offered; nil when
// it must be refused.
func (l *ledger) choice(n Network, through map[*Backend]bool, now time.Time) *Backend {
	var coolest *Backend
	for _, b := range l.queue() {
		r := l.records[b]
		switch until := r.on[n].coolingUntil; {
		case r.drained || through[b]:
		case !until.After(now):
			return b
		case coolest == nil || until.Before(l.records[coolest].on[n].coolingUntil):
			coolest = b
		}
	}
	return coolest
}

// failed books a failure of an attempt that began at a tick and says what the
// pool must have answered.
func (l *ledger) failed(b *Backend, n Network, began int, second bool, now time.Time) (Verdict, Change) {
	r := &l.records[b].on[n]
	r.failed++
	var change Change
	movedMeanwhile := r.latestMove > began
	isDown := r.down && r.latest < began
	if r.latest < began && !r.down {
		r.latest = l.next()
		r.strikes++
		r.strikesSince++
		change.Strike = r.strikes
		if r.strikes == 2 {
			l.demote(b, n, now, &change)
		}
		l.count(n, &change)
	}
	switch {
	case second, movedMeanwhile, change.Demoted:
		return Next, change
	case isDown:
		return RetryIfChanged, change
	}
	return Retry, change
}

func (l *ledger) demote(b *Backend, n Network, now time.Time, change *Change) {
	l.demotions++
	r := &l.records[b].on[n]
	r.latestMove = r.latest
	r.strikes, r.down, r.downSince = 0, true, now
	r.demotions++
	r.demotionsSince++
	r.recoveriesSinceDemotion = 0
	change.Demoted = true
	if l.cooldown > 0 {
		r.coolingUntil = now.Add(l.cooldown)
		change.CoolingUntil = r.coolingUntil
	}
	before := l.order()
	if slices.Contains(l.configured, b) { // a removed one moves nobody
		l.moved = append(slices.DeleteFunc(l.moved, func(m *Backend) bool { return m == b }), b)
	}
	if after := l.order(); !slices.Equal(before, after) {
		change.Order = after
	}
	if !l.reported[n] && l.allDown(n) {
		l.reported[n] = true
		change.AllUnavailable = true
		l.allUnavailable++
	}
}

func (l *ledger) succeeded(b *Backend, n Network, now time.Time) Change {
	r := &l.records[b].on[n]
	var change Change
	if r.down {
		l.recoveries++
		r.recoveriesSinceDemotion++
		change = Change{Recovered: true, DownFor: now.Sub(r.downSince)}
	}
	r.latest = l.next()
	r.succeeded++
	r.clear()
	l.reported[n] = false
	if change.Recovered {
		l.count(n, &change)
	}
	return change
}

// clear is what a success and a reset have in common.
func (r *networkRecord) clear() {
	r.strikes, r.down, r.downSince, r.coolingUntil = 0, false, time.Time{}, time.Time{}
	r.strikesSince, r.demotionsSince = 0, 0
}

// check says where a pool is not as the ledger has it, or where an outage cost
// more than it may.
func (l *ledger) check(p *Pool, now time.Time) error {
	if err := checkSnapshot(p, now); err != nil {
		return err
	}
	if got, want := p.Order(), l.order(); !slices.Equal(got, want) {
		return fmt.Errorf("order %v, want %v", got, want)
	}
	for _, s := range p.Snapshot(now) {
		for n, got := range s.Networks {
			r := &l.records[s.Backend].on[n]
			if got.Strikes != r.strikes || !got.DownSince.Equal(r.downSince) || got.Succeeded != r.succeeded || got.Failed != r.failed || got.Demotions != r.demotions {
				return fmt.Errorf("%s %s is %+v, want %+v", s.Backend.Text, Network(n), got, *r)
			}
			if (got.State == Draining) != l.records[s.Backend].drained {
				return fmt.Errorf("%s is %s, want drained %v", s.Backend.Text, got.State, l.records[s.Backend].drained)
			}
			if r.strikesSince > 2 || r.demotionsSince > 1 || r.recoveriesSinceDemotion > 1 {
				return fmt.Errorf("%s %s cost more than an outage may: %+v", s.Backend.Text, Network(n), *r)
			}
		}
	}
	return nil
}
