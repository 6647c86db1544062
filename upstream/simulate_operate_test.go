package upstream

import (
	"errors"
	"reflect"
	"slices"
)

// This file is what operators and health checks do in the simulation, and what
// the ledger makes of it.

// operate is something that an operator or a health check does.
func (w *world) operate() {
	b := w.anyBackend()
	switch r := w.rng.IntN(10); {
	case r < 4:
		w.setDrained(b, !w.ledger.records[b].drained)
	case r < 9:
		if moved := w.ledger.moved; len(moved) > 0 {
			b = moved[w.rng.IntN(len(moved))]
		}
		w.failback(b)
	default:
		w.reset()
	}
}

func (w *world) setDrained(b *Backend, drained bool) {
	var wantErr error
	if drained && w.ledger.takers(b) == 0 {
		wantErr = ErrLastBackend
	}
	r := w.ledger.records[b]
	want := r.drained != drained && wantErr == nil
	if changed, err := w.pool.SetDrained(b, drained); changed != want || !errors.Is(err, wantErr) {
		fail("%s drained %v: changed %v, %v; want %v, %v", b.Text, drained, changed, err, want, wantErr)
	}
	switch {
	case want:
		w.seen.drains++
		r.drained = drained
	case wantErr != nil:
		w.seen.lastOnes++
	}
}

func (w *world) reset() {
	w.seen.resets++
	got := w.pool.Reset()
	if want := w.ledger.reset(); !reflect.DeepEqual(got, want) {
		fail("reset: change %+v, want %+v", got, want)
	}
}

// failback checks, besides what the ledger says, what it is about: whoever
// works returns before all that are configured after it, and overtakes no
// leader that works and is configured before it.
func (w *world) failback(b *Backend) {
	leader := w.pool.backends()[0]
	got := w.pool.Failback(b)
	if want := w.ledger.failback(b); !reflect.DeepEqual(got, want) {
		fail("failback of %s: change %+v, want %+v", b.Text, got, want)
	}
	if w.ledger.isDown(b) {
		return
	}
	queue := w.pool.backends()
	for _, ahead := range queue[:slices.Index(queue, b)] {
		if ahead.configured > b.configured {
			fail("%s failed back and stands behind %s", b.Text, ahead.Text)
		}
	}
	if queue[0] == b && leader.configured < b.configured && !w.ledger.isDown(leader) {
		fail("%s overtook %s on its way back", b.Text, leader.Text)
	}
	if got.Order != nil {
		w.seen.failbacks++
		if len(w.ledger.moved) > 0 {
			w.seen.failbacksPast++
		}
	}
}

// takers counts the backends besides b that are not drained.
func (l *ledger) takers(b *Backend) (count int) {
	for _, o := range l.configured {
		if o != b && !l.records[o].drained {
			count++
		}
	}
	return count
}

func (l *ledger) isDown(b *Backend) bool {
	return l.records[b].on[TCP].down || l.records[b].on[UDP].down
}

// count is what a change says of those who are left.
func (l *ledger) count(n Network, c *Change) {
	c.Total = len(l.configured)
	for _, b := range l.configured {
		if r := l.records[b]; !r.drained && !r.on[n].down {
			c.Available++
		}
	}
}

func (l *ledger) reset() Change {
	before := l.order()
	l.moved = nil
	for _, b := range l.configured {
		for n := range networks {
			r := &l.records[b].on[n]
			r.latest = l.next()
			r.clear()
			r.outage = outage{} // an operator's word is a new beginning
		}
	}
	l.reported = [networks]bool{}
	var change Change
	if after := l.order(); !slices.Equal(before, after) {
		change.Order = after
	}
	l.count(TCP, &change)
	return change
}

// failback is as if b, and those in front who stand and work as they were
// configured, had never been moved.
func (l *ledger) failback(b *Backend) Change {
	if l.isDown(b) || !slices.Contains(l.moved, b) {
		return Change{}
	}
	before := l.order()
	home := []*Backend{b}
	last := -1
	for _, o := range l.queue() {
		place := slices.Index(l.configured, o)
		if l.isDown(o) || place < last {
			break
		}
		home, last = append(home, o), place
	}
	l.moved = slices.DeleteFunc(l.moved, func(o *Backend) bool { return slices.Contains(home, o) })
	var change Change
	if after := l.order(); !slices.Equal(before, after) {
		change.Order = after
	}
	return change
}
