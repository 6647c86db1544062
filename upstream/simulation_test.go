package upstream

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"
)

// simulation is a pool with clients, checks and machines that die, hang and come
// back, all on one goroutine. Events are drawn from a seed, so every run of a seed is the
// same. It panics with a violation if the pool breaks a rule.
type simulation struct {
	seed    uint64
	rng     *rand.Rand
	pool    *Pool
	model   *model
	now     time.Time
	updates bool // whether the configuration changes

	machines map[string]*[networks]machine // by name
	clients  []*client                     // the clients with attempts in progress
	covered  map[string]int                // number of times by situation
}

// machine is the state of a machine on one network.
type machine uint8

const (
	alive machine = iota
	hung          // accepts, and answers no check
	dead
)

// passes reports whether an attempt on the machine succeeds.
func (m machine) passes(e Evidence) bool { return m == alive || m == hung && e == Listens }

// client is one walk of a client or a probe.
type client struct {
	walk      Walk
	network   Network
	only      *Backend // the backend of a probe; nil: a client
	evidence  Evidence
	pending   []*dial // the client waits for the last one at most; earlier ones may still win
	waiting   bool
	tried     map[*Backend]int
	exhausted map[*Backend]bool
}

// dial is an attempt in progress. Its outcome is settled at one time and reported at
// a later time, as with real dials.
type dial struct {
	attempt Attempt
	began   int
	second  bool
	settled bool
	wins    bool
}

// violation is the panic value for a broken rule.
type violation string

func fail(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

const names = "a b c d e f"

func newSimulation(seed uint64, updates bool) *simulation {
	s := &simulation{seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), now: start, updates: updates, machines: make(map[string]*[networks]machine), covered: make(map[string]int)}
	for _, name := range strings.Fields(names) {
		s.machines[name] = new([networks]machine)
	}
	cooldown := time.Duration(s.rng.IntN(2)) * time.Minute
	list := names[:2*s.rng.IntN(5)+1] // one to five of them
	s.pool = NewPool(addresses(list), cooldown, s.now)
	s.model = newModel(s.pool, cooldown)
	return s
}

// event simulates one random event.
func (s *simulation) event() {
	if s.rng.IntN(4) == 0 {
		s.now = s.now.Add(time.Duration(s.rng.IntN(5000)) * time.Millisecond)
	}
	switch r := s.rng.IntN(100); {
	case r < 6:
		name := strings.Fields(names)[s.rng.IntN(len(s.machines))]
		n := Network(s.rng.IntN(int(networks)))
		s.setMachine(name, n, (s.machines[name][n]+1+machine(s.rng.IntN(2)))%3)
	case r < 8:
		s.operatorEvent()
	case r < 9:
		s.now = s.now.Add(time.Duration(s.rng.IntN(120)) * time.Second)
	case r < 10 && s.updates:
		s.reload()
	case r < 20 && len(s.clients) < 30:
		s.arrive(s.rng.IntN(3) == 0)
	case len(s.clients) > 0:
		c := s.clients[s.rng.IntN(len(s.clients))]
		s.advance(c)
		if len(c.pending) == 0 {
			s.clients = slices.DeleteFunc(s.clients, func(o *client) bool { return o == c })
		}
	}
	if err := s.model.check(s.pool, s.now); err != nil {
		fail("%v", err)
	}
}

func (s *simulation) setMachine(name string, n Network, m machine) {
	s.machines[name][n] = m
	for b, r := range s.model.records {
		if b.Text == name {
			r.on[n].outage = outage{}
		}
	}
}

func (s *simulation) anyBackend() *Backend {
	bs := s.pool.backends()
	return bs[s.rng.IntN(len(bs))]
}

// reload configures a random choice of the names in random order.
func (s *simulation) reload() {
	list := strings.Fields(names)
	s.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	list = list[:1+s.rng.IntN(len(list))]
	before := slices.Clone(s.pool.backends())
	s.model.cooldown = time.Duration(s.rng.IntN(2)) * time.Minute
	s.pool.Update(addresses(strings.Join(list, " ")), s.model.cooldown)
	for _, b := range before {
		if slices.Contains(list, b.Text) && s.pool.Backend(b.Text) != b {
			fail("%s stayed in the configuration, but was replaced", b.Text)
		}
	}
	s.model.update(s.pool)
	for i, b := range s.model.configured {
		if b.Text != list[i] {
			fail("%s has the configured place of %s", b.Text, list[i])
		}
	}
}

func (s *simulation) arrive(probe bool) *client {
	c := &client{network: Network(s.rng.IntN(int(networks)))}
	c.newRound()
	if probe {
		c.only = s.anyBackend()
		c.evidence = Evidence(min(s.rng.IntN(4), 1)) // some are bare probes
		c.walk = s.pool.Probe(c.only, c.network, c.evidence)
	} else {
		c.walk = s.pool.Walk(c.network)
	}
	s.next(c)
	if len(c.pending) > 0 {
		s.clients = append(s.clients, c)
	}
	return c
}

func (c *client) newRound() {
	c.pending, c.tried, c.exhausted = nil, make(map[*Backend]int), make(map[*Backend]bool)
}

// next begins the client's next attempt, which must be on the expected backend.
func (s *simulation) next(c *client) {
	a, ok := c.walk.Next(s.now)
	want := c.only
	if c.only == nil {
		want = s.model.choice(c.network, c.exhausted, s.now)
	} else if c.exhausted[c.only] {
		want = nil
	}
	if a.Backend != want || ok != (want != nil) {
		fail("next is %v, %v; want %v", a.Backend, ok, want)
	}
	c.waiting = ok
	if ok {
		s.began(c, a, false)
		return
	}
	s.covered["refusals"]++
	for _, b := range s.pool.backends() {
		if c.only == nil && !s.model.records[b].drained && c.tried[b] == 0 {
			fail("refused, but %s was not tried", b.Text)
		}
	}
}

func (s *simulation) began(c *client, a Attempt, second bool) {
	if a.Second() != second {
		fail("attempt on %s has Second %v", a.Backend.Text, a.Second())
	}
	if c.tried[a.Backend]++; c.tried[a.Backend] > 2 {
		fail("attempt number %d of one client on %s", c.tried[a.Backend], a.Backend.Text)
	}
	c.pending = append(c.pending, &dial{attempt: a, began: s.model.next(), second: second})
	c.waiting = true
}

// advance settles or reports one of the client's dials.
func (s *simulation) advance(c *client) {
	i := s.rng.IntN(len(c.pending))
	d := c.pending[i]
	waited := c.waiting && i == len(c.pending)-1
	b := d.attempt.Backend
	demoted := s.model.records[b].on[c.network].latestMove > d.began
	if isClosed(d.attempt.Demoted()) != demoted {
		fail("%s: Demoted is closed: %v, want %v", b.Text, !demoted, demoted)
	}
	switch r := s.rng.IntN(40); {
	case r < 3: // the client leaves
		c.pending = nil
	case r == 3 && waited: // a local failure, which is not reported
		c.pending = slices.Delete(c.pending, i, i+1)
		s.exhaust(c, b)
		s.next(c)
	case demoted && waited && r < 30: // continues with the next backend while the old dial runs
		s.exhaust(c, b)
		s.next(c)
	case !d.settled:
		// Most dials to a dead machine hang, and may still win.
		d.wins = s.machines[b.Text][c.network].passes(c.evidence)
		d.settled = d.wins || s.rng.IntN(3) == 0
	case d.wins:
		s.win(c, d, waited)
	default:
		c.pending = slices.Delete(c.pending, i, i+1)
		s.lose(c, d, waited)
	}
}

func (s *simulation) exhaust(c *client, b *Backend) {
	c.walk.Exhaust(b)
	c.exhausted[b] = true
}

func (s *simulation) win(c *client, d *dial, waited bool) {
	b := d.attempt.Backend
	if !waited {
		s.covered["old dials that won"]++
	}
	r := &s.model.records[b].on[c.network]
	if !s.machines[b.Text][c.network].passes(c.evidence) {
		s.covered["late successes"]++
		r.outage.lateSuccesses++
	}
	if c.evidence == Listens && r.byCheck {
		s.covered["connects that end no strike or down of a check"]++
	}
	if c.evidence == Works && r.strikes == 1 && !r.byCheck {
		s.covered["checks that end no strike of a connect"]++
	}
	got := c.walk.Succeeded(d.attempt, s.now)
	if want := s.model.succeeded(b, c.network, c.evidence, s.now); !reflect.DeepEqual(got, want) {
		fail("success on %s: change %+v, want %+v", b.Text, got, want)
	}
	if c.only == nil && c.network == UDP && s.rng.IntN(2) == 0 { // a UDP session that waits for its next answer
		s.covered["sessions resumed"]++
		c.newRound()
		s.began(c, c.walk.Resume(b, s.now), false)
		return
	}
	c.pending = nil // the other dials are canceled
}

func (s *simulation) lose(c *client, d *dial, waited bool) {
	b := d.attempt.Backend
	r := &s.model.records[b].on[c.network]
	wasDown, wasByCheck := r.down, r.byCheck
	gotVerdict, got := c.walk.Failed(d.attempt, s.now, errRefused)
	verdict, want := s.model.failed(b, c.network, c.evidence, d.began, d.second, s.now)
	if gotVerdict != verdict || !reflect.DeepEqual(got, want) {
		fail("failure on %s: %v, %+v; want %v, %+v", b.Text, gotVerdict, got, verdict, want)
	}
	if !s.machines[b.Text][c.network].passes(c.evidence) { // otherwise the attempt belongs to an earlier outage
		r.outage.charge(got)
	}
	switch {
	case got.Demoted && got.ByCheck:
		s.covered["demotions by check"]++
		if s.machines[b.Text][c.network] == hung {
			s.covered["demotions of hung machines"]++
		}
		if c.evidence == Listens || !wasByCheck {
			s.covered["strikes of both kinds"]++
		}
	case wasDown && r.byCheck && !wasByCheck:
		s.covered["checks that failed on a down backend"]++
	}
	if verdict == Next {
		c.exhausted[b] = true
	}
	if got.Strike == 0 {
		s.covered["failures without a strike"]++
	}
	if !waited {
		return // the client no longer waits for this dial
	}
	switch verdict {
	case RetryIfChanged:
		if s.rng.IntN(2) == 0 {
			s.exhaust(c, b)
			s.next(c)
			return
		}
		s.covered["second attempts on a down backend"]++
		fallthrough
	case Retry:
		s.covered["retries"]++
		again, ok := c.walk.Again(d.attempt, s.now)
		if !ok || again.Backend != b {
			fail("no second attempt on %s", b.Text)
		}
		s.began(c, again, true)
	case Next:
		if _, ok := c.walk.Again(d.attempt, s.now); ok && d.second {
			fail("third attempt on %s", b.Text)
		}
		s.next(c)
	}
}
