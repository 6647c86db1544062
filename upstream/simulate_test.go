package upstream

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"
)

// world is a pool with its clients and with machines that come and go, all on
// one goroutine: what happens next is drawn from a seed, so that every run of
// a seed is the same. It panics with a violation at the first broken promise.
type world struct {
	seed    uint64
	rng     *rand.Rand
	pool    *Pool
	ledger  *ledger
	now     time.Time
	updates bool // whether the configuration changes too

	alive   map[string]*[networks]bool // the machine behind each name
	clients []*client                  // those with something under way
	seen    sights
}

// client is one walk, a client's or a probe's.
type client struct {
	walk    Walk
	network Network
	only    *Backend // a probe's
	pending []*dial  // at most one is waited for, the last; the others are old dials that may still win
	waiting bool
	tried   map[*Backend]int
	through map[*Backend]bool
}

// dial is an attempt under way. Its outcome is settled at one time and
// reported at a later one, as in real life.
type dial struct {
	attempt Attempt
	began   int
	second  bool
	settled bool
	wins    bool
}

// sights counts what a run has met, to know that the tests test something.
type sights struct {
	refusals, lateSuccesses, oldDialWins, secondsOnDown, staleFailures, retries, resumed int
	drains, lastOnes, resets, failbacks, failbacksPast                                   int
}

type violation string

func fail(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

const names = "a b c d e f"

func newWorld(seed uint64, updates bool) *world {
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), now: start, updates: updates, alive: make(map[string]*[networks]bool)}
	for _, name := range strings.Fields(names) {
		w.alive[name] = &[networks]bool{true, true}
	}
	cooldown := time.Duration(w.rng.IntN(2)) * time.Minute
	list := names[:2*w.rng.IntN(5)+1] // one to five of them
	w.pool = NewPool(addresses(list), cooldown, w.now)
	w.ledger = newLedger(w.pool, cooldown)
	return w
}

// happen is one thing that happens.
func (w *world) happen() {
	if w.rng.IntN(4) == 0 {
		w.now = w.now.Add(time.Duration(w.rng.IntN(5000)) * time.Millisecond)
	}
	switch r := w.rng.IntN(100); {
	case r < 6:
		name := strings.Fields(names)[w.rng.IntN(len(w.alive))]
		n := Network(w.rng.IntN(int(networks)))
		w.setMachine(name, n, !w.alive[name][n])
	case r < 8:
		w.operate()
	case r < 9:
		w.now = w.now.Add(time.Duration(w.rng.IntN(120)) * time.Second)
	case r < 10 && w.updates:
		w.reload()
	case r < 20 && len(w.clients) < 30:
		w.arrive(w.rng.IntN(8) == 0)
	case len(w.clients) > 0:
		c := w.clients[w.rng.IntN(len(w.clients))]
		w.move(c)
		if len(c.pending) == 0 {
			w.clients = slices.DeleteFunc(w.clients, func(o *client) bool { return o == c })
		}
	}
	if err := w.ledger.check(w.pool, w.now); err != nil {
		fail("%v", err)
	}
}

func (w *world) setMachine(name string, n Network, alive bool) {
	w.alive[name][n] = alive
	for b, r := range w.ledger.records {
		if b.Text == name {
			r.on[n].outage = outage{}
		}
	}
}

func (w *world) anyBackend() *Backend {
	bs := w.pool.backends()
	return bs[w.rng.IntN(len(bs))]
}

// reload configures some of the names in some order.
func (w *world) reload() {
	list := strings.Fields(names)
	w.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	list = list[:1+w.rng.IntN(len(list))]
	before := slices.Clone(w.pool.backends())
	w.ledger.cooldown = time.Duration(w.rng.IntN(2)) * time.Minute
	w.pool.Update(addresses(strings.Join(list, " ")), w.ledger.cooldown)
	for _, b := range before {
		if slices.Contains(list, b.Text) && w.pool.Backend(b.Text) != b {
			fail("%s was configured before and after, and is another", b.Text)
		}
	}
	w.ledger.update(w.pool)
	for i, b := range w.ledger.configured {
		if b.Text != list[i] {
			fail("%s stands in %s's configured place", b.Text, list[i])
		}
	}
}

func (w *world) arrive(probe bool) *client {
	c := &client{network: Network(w.rng.IntN(int(networks)))}
	c.newRound()
	if probe {
		c.only = w.anyBackend()
		c.walk = w.pool.Probe(c.only, c.network)
	} else {
		c.walk = w.pool.Walk(c.network)
	}
	w.next(c)
	if len(c.pending) > 0 {
		w.clients = append(w.clients, c)
	}
	return c
}

func (c *client) newRound() {
	c.pending, c.tried, c.through = nil, make(map[*Backend]int), make(map[*Backend]bool)
}

// next asks whom to try next, which must be the very backend that is due.
func (w *world) next(c *client) {
	a, ok := c.walk.Next(w.now)
	want := c.only
	if c.only == nil {
		want = w.ledger.choice(c.network, c.through, w.now)
	} else if c.through[c.only] {
		want = nil
	}
	if a.Backend != want || ok != (want != nil) {
		fail("next is %v, %v; want %v", a.Backend, ok, want)
	}
	c.waiting = ok
	if ok {
		w.began(c, a, false)
		return
	}
	w.seen.refusals++
	for _, b := range w.pool.backends() {
		if c.only == nil && !w.ledger.records[b].drained && c.tried[b] == 0 {
			fail("refused, but %s was not tried", b.Text)
		}
	}
}

func (w *world) began(c *client, a Attempt, second bool) {
	if a.Second() != second {
		fail("attempt on %s has Second %v", a.Backend.Text, a.Second())
	}
	if c.tried[a.Backend]++; c.tried[a.Backend] > 2 {
		fail("attempt number %d of one client on %s", c.tried[a.Backend], a.Backend.Text)
	}
	c.pending = append(c.pending, &dial{attempt: a, began: w.ledger.next(), second: second})
	c.waiting = true
}

// move takes one of a client's dials a step further.
func (w *world) move(c *client) {
	i := w.rng.IntN(len(c.pending))
	d := c.pending[i]
	waited := c.waiting && i == len(c.pending)-1
	b := d.attempt.Backend
	told := w.ledger.records[b].on[c.network].latestMove > d.began
	if isClosed(d.attempt.Demoted()) != told {
		fail("%s: told of a demotion: %v, want %v", b.Text, !told, told)
	}
	switch r := w.rng.IntN(40); {
	case r == 0: // the client leaves
		c.pending = nil
	case r == 1 && waited: // a failure of our own: no report
		c.pending = slices.Delete(c.pending, i, i+1)
		w.exhaust(c, b)
		w.next(c)
	case told && waited && r < 30: // goes on at once, and lets the old dial run
		w.exhaust(c, b)
		w.next(c)
	case !d.settled:
		// Nobody answers for the dead: most dials to them hang, and may win yet.
		d.wins = w.alive[b.Text][c.network]
		d.settled = d.wins || w.rng.IntN(3) == 0
	case d.wins:
		w.win(c, d, waited)
	default:
		c.pending = slices.Delete(c.pending, i, i+1)
		w.lose(c, d, waited)
	}
}

func (w *world) exhaust(c *client, b *Backend) {
	c.walk.Exhaust(b)
	c.through[b] = true
}

func (w *world) win(c *client, d *dial, waited bool) {
	b := d.attempt.Backend
	if !waited {
		w.seen.oldDialWins++
	}
	if !w.alive[b.Text][c.network] {
		w.seen.lateSuccesses++
		w.ledger.records[b].on[c.network].outage.lateSuccesses++
	}
	got := c.walk.Succeeded(d.attempt, w.now)
	if want := w.ledger.succeeded(b, c.network, w.now); !reflect.DeepEqual(got, want) {
		fail("success on %s: change %+v, want %+v", b.Text, got, want)
	}
	if c.only == nil && c.network == UDP && w.rng.IntN(2) == 0 { // the session waits for its next answer
		w.seen.resumed++
		c.newRound()
		w.began(c, c.walk.Resume(b, w.now), false)
		return
	}
	c.pending = nil // the other dials are called off
}

func (w *world) lose(c *client, d *dial, waited bool) {
	b := d.attempt.Backend
	gotVerdict, got := c.walk.Failed(d.attempt, w.now, errRefused)
	verdict, want := w.ledger.failed(b, c.network, d.began, d.second, w.now)
	if gotVerdict != verdict || !reflect.DeepEqual(got, want) {
		fail("failure on %s: %v, %+v; want %v, %+v", b.Text, gotVerdict, got, verdict, want)
	}
	if !w.alive[b.Text][c.network] { // else it is of the last outage, reported after its end
		w.ledger.records[b].on[c.network].outage.charge(got)
	}
	if verdict == Next {
		c.through[b] = true
	}
	if got.Strike == 0 {
		w.seen.staleFailures++
	}
	if !waited {
		return // it was given up before, what it says is for the pool alone
	}
	switch verdict {
	case RetryIfChanged:
		if w.rng.IntN(2) == 0 {
			w.exhaust(c, b)
			w.next(c)
			return
		}
		w.seen.secondsOnDown++
		fallthrough
	case Retry:
		w.seen.retries++
		again, ok := c.walk.Again(d.attempt, w.now)
		if !ok || again.Backend != b {
			fail("%s is not given its second attempt", b.Text)
		}
		w.began(c, again, true)
	case Next:
		if _, ok := c.walk.Again(d.attempt, w.now); ok && d.second {
			fail("%s is given a third attempt", b.Text)
		}
		w.next(c)
	}
}
