package upstream

import (
	"errors"
	"reflect"
	"slices"
)

// This file has the actions of operators and health checks in the simulation, and
// their results in the model.

// operatorEvent simulates one action of an operator or a health check.
func (s *simulation) operatorEvent() {
	b := s.anyBackend()
	switch r := s.rng.IntN(10); {
	case r < 4:
		s.setDrained(b, !s.model.records[b].drained)
	case r < 5:
		s.forgetChecks(Network(s.rng.IntN(int(networks))))
	case r < 9:
		if moved := s.model.moved; len(moved) > 0 {
			b = moved[s.rng.IntN(len(moved))]
		}
		s.failback(b)
	default:
		s.reset()
	}
}

func (s *simulation) setDrained(b *Backend, drained bool) {
	var wantErr error
	if drained && s.model.alternatives(b) == 0 {
		wantErr = ErrLastBackend
	}
	r := s.model.records[b]
	want := r.drained != drained && wantErr == nil
	if changed, err := s.pool.SetDrained(b, drained); changed != want || !errors.Is(err, wantErr) {
		fail("%s drained %v: changed %v, %v; want %v, %v", b.Text, drained, changed, err, want, wantErr)
	}
	switch {
	case want:
		s.covered["drains"]++
		r.drained = drained
	case wantErr != nil:
		s.covered["refused drains of the last backend"]++
	}
}

// forgetChecks simulates a reload to a config without checks.
func (s *simulation) forgetChecks(n Network) {
	s.pool.ForgetChecks(n)
	for _, b := range s.model.configured {
		r := &s.model.records[b].on[n]
		if r.byCheck {
			s.covered["forgotten checks"]++
			r.outage = outage{} // a connect ends the state of a hung machine now
			r.latest = [2]int{s.model.next(), s.model.tick}
		}
		r.byCheck = false
	}
}

func (s *simulation) reset() {
	s.covered["resets"]++
	got := s.pool.Reset()
	if want := s.model.reset(); !reflect.DeepEqual(got, want) {
		fail("reset: change %+v, want %+v", got, want)
	}
}

// failback compares the result with the model and checks the purpose of a failback:
// a backend that is up moves before all backends configured after it, and does not
// overtake a first backend that is up and configured before it.
func (s *simulation) failback(b *Backend) {
	leader := s.pool.backends()[0]
	got := s.pool.Failback(b)
	if want := s.model.failback(b); !reflect.DeepEqual(got, want) {
		fail("failback of %s: change %+v, want %+v", b.Text, got, want)
	}
	if s.model.isDown(b) {
		return
	}
	queue := s.pool.backends()
	for _, ahead := range queue[:slices.Index(queue, b)] {
		if ahead.configured > b.configured {
			fail("%s failed back, but is still behind %s", b.Text, ahead.Text)
		}
	}
	if queue[0] == b && leader.configured < b.configured && !s.model.isDown(leader) {
		fail("%s overtook %s on its way back", b.Text, leader.Text)
	}
	if got.Order != nil {
		s.covered["failbacks"]++
		if len(s.model.moved) > 0 {
			s.covered["failbacks past demoted backends"]++
		}
	}
}

// alternatives returns the number of backends other than b that are not drained.
func (m *model) alternatives(b *Backend) (count int) {
	for _, o := range m.configured {
		if o != b && !m.records[o].drained {
			count++
		}
	}
	return count
}

func (m *model) isDown(b *Backend) bool {
	return m.records[b].on[TCP].down || m.records[b].on[UDP].down
}

// count sets the expected numbers of a Change.
func (m *model) count(n Network, c *Change) {
	c.Total = len(m.configured)
	for _, b := range m.configured {
		if r := m.records[b]; !r.drained && !r.on[n].down {
			c.Available++
		}
	}
}

func (m *model) reset() Change {
	before := m.order()
	m.moved = nil
	for _, b := range m.configured {
		for n := range networks {
			r := &m.records[b].on[n]
			tick := m.next()
			r.latest = [2]int{tick, tick}
			r.clear()
			r.outage = outage{} // a reset starts a new outage
		}
	}
	m.reported = [networks]bool{}
	var change Change
	if after := m.order(); !slices.Equal(before, after) {
		change.Order = after
	}
	m.count(TCP, &change)
	return change
}

// failback treats b, and the backends at the front that are up and in configured
// order, as never moved.
func (m *model) failback(b *Backend) Change {
	if m.isDown(b) || !slices.Contains(m.moved, b) {
		return Change{}
	}
	before := m.order()
	inPlace := []*Backend{b}
	last := -1
	for _, o := range m.queue() {
		place := slices.Index(m.configured, o)
		if m.isDown(o) || place < last {
			break
		}
		inPlace, last = append(inPlace, o), place
	}
	m.moved = slices.DeleteFunc(m.moved, func(o *Backend) bool { return slices.Contains(inPlace, o) })
	var change Change
	if after := m.order(); !slices.Equal(before, after) {
		change.Order = after
	}
	return change
}
