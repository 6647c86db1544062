package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/fleet"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file simulates fleets in virtual time: nodes with real pools, and storages
// that can fail, hang and be split.

// settle is how long a change may take to be seen by all nodes.
const settle = 2 * time.Second

// memory is a storage.
type memory struct {
	mu      sync.Mutex // guards the fields below
	values  map[string][]byte
	err     error         // of all operations; nil: they succeed
	hang    chan struct{} // operations wait until it is closed; nil: they do not wait
	latency time.Duration
	writes  int
	reads   int
}

func newMemory() *memory { return &memory{values: make(map[string][]byte)} }

func (s *memory) begin(write bool) error {
	s.mu.Lock()
	hang, latency := s.hang, s.latency
	s.mu.Unlock()
	if hang != nil {
		<-hang // like a file system that does not answer: no context ends this
	}
	time.Sleep(latency)
	s.mu.Lock()
	defer s.mu.Unlock()
	if write {
		s.writes++
	} else {
		s.reads++
	}
	return s.err
}

func (s *memory) Store(_ context.Context, key string, value []byte) error {
	if err := s.begin(true); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = slices.Clone(value)
	return nil
}

func (s *memory) Load(_ context.Context, key string) ([]byte, error) {
	if err := s.begin(false); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[key]
	if !ok {
		return nil, fmt.Errorf("load %s: %w", key, fs.ErrNotExist)
	}
	return slices.Clone(value), nil
}

func (s *memory) Delete(_ context.Context, key string) error {
	if err := s.begin(true); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

func (s *memory) List(_ context.Context, prefix string, _ bool) ([]string, error) {
	if err := s.begin(false); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.values {
		if path.Dir(k) == prefix {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// set changes how the storage behaves.
func (s *memory) set(change func(*memory)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *memory) operations() (reads, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads, s.writes
}

// node is a relay with the service web, whose backends are a and b.
type node struct {
	id     string
	pool   *upstream.Pool
	member *fleet.Member
	logs   *observer.ObservedLogs
	begun  time.Time

	mu   sync.Mutex // guards the fields below
	done []string   // operations of others
}

// simulation is a fleet.
type simulation struct {
	t     *testing.T
	nodes []*node
}

// start adds a node whose clock is wrong by skew.
func (s *simulation) start(id string, storage fleet.Storage, skew time.Duration) *node {
	core, logs := observer.New(zapcore.InfoLevel)
	addresses := []upstream.Address{{Text: "a", Host: "a", Port: 1}, {Text: "b", Host: "b", Port: 1}}
	n := &node{id: id, logs: logs, begun: time.Now(), pool: upstream.NewPool(addresses, 0, time.Now())}
	n.member = fleet.Join(fleet.Options{
		Fleet: "test", ID: id, Storage: storage, Log: zap.New(core), Observe: n.observe, Act: n.act,
		Now: func() time.Time {
			now := time.Now().Add(skew)
			return now.Add(now.Sub(n.begun) / 1000) // it is also fast by a thousandth
		},
	})
	s.nodes = append(s.nodes, n)
	return n
}

func newSimulation(t *testing.T, nodes int, storage fleet.Storage) *simulation {
	s := &simulation{t: t}
	for i := range nodes {
		s.start(fmt.Sprintf("node%02d", i), storage, time.Duration(i-nodes/2)*time.Hour)
	}
	return s
}

// end ends all nodes.
func (s *simulation) end() {
	for _, n := range s.nodes {
		n.member.Leave()
	}
}

// crash ends a node without a trace but its record.
func (s *simulation) crash(n *node) {
	dead := newMemory()
	dead.err = errors.New("crashed")
	n.member.SetStorage(dead, zap.NewNop())
	n.member.Leave()
	s.nodes = slices.DeleteFunc(s.nodes, func(o *node) bool { return o == n })
}

func (n *node) observe() []fleet.Service {
	web := fleet.Service{Key: "web"}
	for _, b := range n.pool.Snapshot(time.Now()) {
		web.Backends = append(web.Backends, b.Backend.Text)
		if tcp := b.Networks[upstream.TCP]; !tcp.DownSince.IsZero() {
			web.Down = append(web.Down, fleet.Claim{Target: fleet.Target{Service: "web", Backend: b.Backend.Text, Network: "tcp"}, Demotions: tcp.Demotions})
		}
	}
	return []fleet.Service{web}
}

func (n *node) act(a fleet.Action) {
	switch a.Do {
	case fleet.Suspect:
		n.pool.Suspect(n.pool.Backend(a.Target.Backend), upstream.TCP, time.Now())
	case fleet.Unsuspect:
		n.pool.Unsuspect(n.pool.Backend(a.Target.Backend), upstream.TCP)
	case fleet.Repeat:
		n.apply(a.Operation)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.done = append(n.done, fmt.Sprintf("%s %v by %s", a.Operation.Kind, a.Operation.On, a.Node))
	}
}

// apply does an operation here.
func (n *node) apply(o fleet.Operation) {
	switch o.Kind {
	case fleet.Drain:
		_, _ = n.pool.SetDrained(n.pool.Backend(o.Backend), o.On)
	case fleet.Reset:
		n.pool.Reset()
	}
}

// operate does an operation as an operator of this node.
func (n *node) operate(kind fleet.Kind, backend string, on bool) {
	o := fleet.Operation{Kind: kind, Service: "web", Backend: backend, On: on}
	n.member.Do(o, func() bool { n.apply(o); return true })
}

// repeated returns the operations of others that the node has repeated.
func (n *node) repeated() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.done)
}

// client is a client of the node; dead are the backends that fail. It returns the
// backends that it has tried, the last of which served it unless all are dead.
func (n *node) client(dead ...string) (tried []string) {
	walk := n.pool.Walk(upstream.TCP)
	for a, ok := walk.Next(time.Now()); ok; a, ok = walk.Next(time.Now()) {
		tried = append(tried, a.Backend.Text)
		if !slices.Contains(dead, a.Backend.Text) {
			walk.Succeeded(a, time.Now())
			break
		}
		if verdict, change := walk.Failed(a, time.Now(), errors.New("no answer")); change.Demoted {
			n.member.Changed()
		} else if verdict == upstream.RetryIfChanged {
			walk.Exhaust(a.Backend)
		}
	}
	return tried
}

func (n *node) suspects(backend string) bool { return n.pool.Backend(backend).Suspected(upstream.TCP) }
func (n *node) down(backend string) bool     { return n.pool.Backend(backend).Down(upstream.TCP) }

func (n *node) drained(backend string) bool {
	return !slices.ContainsFunc(n.pool.Undrained(), func(b *upstream.Backend) bool { return b.Text == backend })
}

// lines returns how often a message was logged.
func (n *node) lines(message string) int { return n.logs.FilterMessage(message).Len() }

// all fails the test unless a condition holds on all nodes.
func (s *simulation) all(what string, holds func(*node) bool) {
	s.t.Helper()
	for _, n := range s.nodes {
		if !holds(n) {
			s.t.Errorf("%s is false on %s", what, n.id)
		}
	}
}

// run runs a simulation. It ends all nodes.
func run(t *testing.T, nodes int, f func(*testing.T, *simulation, *memory)) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s := newSimulation(t, nodes, storage)
		time.Sleep(settle)
		f(t, s, storage)
		s.end()
	})
}

// A demotion on one node makes the backend a suspect on all others within two
// seconds, although their clocks differ by hours, and a demotion on none. A recovery
// ends that.
func TestSuspicionsConverge(t *testing.T) {
	run(t, 50, func(t *testing.T, s *simulation, _ *memory) {
		first := s.nodes[0]
		first.client("a")
		time.Sleep(settle)
		s.all("a is a suspect", func(n *node) bool { return n == first || n.suspects("a") && !n.down("a") })
		first.pool.Reset()
		first.member.Changed()
		time.Sleep(settle)
		s.all("a is no suspect", func(n *node) bool { return !n.suspects("a") })
	})
}

// The backend is dead for one node only: it is demoted there, and nowhere else, for
// as long as that lasts and however often it happens.
func TestPartitionedNodeDemotesForNobody(t *testing.T) {
	run(t, 5, func(t *testing.T, s *simulation, _ *memory) {
		cut := s.nodes[0]
		for range 20 {
			cut.client("a")
			time.Sleep(settle)
			s.all("a is down on the cut node only", func(n *node) bool { return n.down("a") == (n == cut) })
			for _, n := range s.nodes[1:] {
				if tried := n.client(); !slices.Equal(tried, []string{"a"}) {
					t.Errorf("a client of %s tried %v", n.id, tried)
				}
			}
			s.all("a is no suspect", func(n *node) bool { return !n.suspects("a") })
			cut.pool.Reset()
			cut.member.Changed()
			time.Sleep(settle)
		}
		s.all("a was never moved", func(n *node) bool { return n.pool.Order()[0] == "a" })
	})
}

// Operations reach all nodes within two seconds, once, and are not sent back.
func TestOperationsConverge(t *testing.T) {
	run(t, 50, func(t *testing.T, s *simulation, storage *memory) {
		_, before := storage.operations()
		s.nodes[3].operate(fleet.Drain, "a", true)
		time.Sleep(settle)
		s.all("a is drained", func(n *node) bool { return n.drained("a") })
		s.nodes[7].operate(fleet.Drain, "a", false)
		time.Sleep(settle)
		s.all("a is resumed", func(n *node) bool { return !n.drained("a") })
		time.Sleep(time.Minute)
		s.all("each operation was repeated once", func(n *node) bool {
			want := []string{"drain true by node03", "drain false by node07"}
			switch n.id {
			case "node03":
				want = want[1:]
			case "node07":
				want = want[:1]
			}
			return slices.Equal(n.repeated(), want)
		})
		_, after := storage.operations()
		// Each operation costs two writes, each node at most seven heartbeats.
		if writes := after - before; writes > 2*2+50*7 {
			t.Errorf("%d writes", writes)
		}
	})
}

// When a backend dies for all, each node publishes that once.
func TestNoEchoStorm(t *testing.T) {
	run(t, 50, func(t *testing.T, s *simulation, storage *memory) {
		_, before := storage.operations()
		for _, n := range s.nodes {
			n.client("a")
		}
		time.Sleep(settle)
		s.all("a is down", func(n *node) bool { return n.down("a") && !n.suspects("a") })
		_, after := storage.operations()
		if writes := after - before; writes > 50*2+50 { // and a heartbeat of each
			t.Errorf("%d writes, want at most two of each node and a heartbeat", writes)
		}
		time.Sleep(time.Minute)
		_, later := storage.operations()
		if writes := later - after; writes > 50*7 {
			t.Errorf("%d writes in a quiet minute", writes)
		}
	})
}

// Nodes that mark changes at the same time replace the marks of each other. Nothing is
// lost by that, and a single change costs each node one operation more.
func TestConcurrentMarks(t *testing.T) {
	run(t, 50, func(t *testing.T, s *simulation, storage *memory) {
		storage.set(func(m *memory) { m.latency = 5 * time.Millisecond })
		const changes = 60
		time.Sleep(time.Minute)
		before, _ := storage.operations()
		time.Sleep(changes * 10 * time.Second)
		quiet, _ := storage.operations()
		for i := range changes {
			s.nodes[i%50].operate(fleet.Drain, "a", i%2 == 0)
			time.Sleep(settle)
			s.all("the change is seen", func(n *node) bool { return n.drained("a") == (i%2 == 0) })
			time.Sleep(10*time.Second - settle)
		}
		after, _ := storage.operations()
		extra := float64((after-quiet)-(quiet-before)) / changes
		t.Logf("a change costs %.0f reads in a fleet of 50", extra)
		if extra > 3*50 {
			t.Errorf("a change costs %.0f reads in a fleet of 50", extra)
		}
		for round := range 5 {
			for i := range 10 {
				s.nodes[(7*round+i)%50].operate(fleet.Drain, "a", (round+i)%2 == 0)
				s.nodes[(7*round+i+10)%50].operate(fleet.Reset, "", false)
			}
			time.Sleep(2*settle + time.Second) // a mark may be lost several times; less than a beat
			want := s.nodes[0].drained("a")
			s.all("all agree on a", func(n *node) bool { return n.drained("a") == want })
		}
	})
}

// A change that comes with many others does not cost a write each.
func TestWritesAreBounded(t *testing.T) {
	run(t, 2, func(t *testing.T, s *simulation, storage *memory) {
		_, before := storage.operations()
		for range 10_000 { // 10 s
			s.nodes[0].member.Changed()
			time.Sleep(time.Millisecond)
		}
		_, after := storage.operations()
		if writes := after - before; writes > 2*35+5 {
			t.Errorf("%d writes in 10 s", writes)
		}
	})
}

// A storage that fails or hangs gives one warning and one line at its end. Each node
// continues alone, and they agree again within two seconds.
func TestDeadStorage(t *testing.T) {
	for _, how := range []string{"fails", "hangs"} {
		t.Run(how, func(t *testing.T) {
			run(t, 5, func(t *testing.T, s *simulation, storage *memory) {
				hang := make(chan struct{})
				storage.set(func(m *memory) {
					if how == "fails" {
						m.err = errors.New("disk on fire")
					} else {
						m.hang = hang
					}
				})
				time.Sleep(time.Second) // an operation is in progress on each node
				began := time.Now()
				s.nodes[0].client("a")
				s.nodes[1].operate(fleet.Drain, "b", true)
				if time.Since(began) > 0 {
					t.Error("a node has waited for the storage")
				}
				time.Sleep(10 * time.Minute)
				s.all("there is one warning", func(n *node) bool {
					return n.lines("fleet storage unavailable, this node continues alone") == 1 && n.lines("fleet storage available again") == 0
				})
				s.all("nothing is known of others", func(n *node) bool {
					return !n.suspects("a") && n.drained("b") == (n.id == "node01")
				})
				storage.set(func(m *memory) { m.err, m.hang = nil, nil })
				close(hang)
				time.Sleep(settle)
				s.all("b is drained", func(n *node) bool { return n.drained("b") })
				s.all("a is a suspect", func(n *node) bool { return n.id == "node00" || n.suspects("a") })
				s.all("there is one line at the end", func(n *node) bool {
					return n.lines("fleet storage unavailable, this node continues alone") == 1 && n.lines("fleet storage available again") == 1
				})
				time.Sleep(time.Minute)
				s.all("no node vanished", func(n *node) bool { return n.lines("node vanished from the fleet") == 0 })
			})
		})
	}
}

// One operation that fails is not worth a line.
func TestSingleFailures(t *testing.T) {
	run(t, 2, func(t *testing.T, s *simulation, storage *memory) {
		for range 100 {
			storage.set(func(m *memory) { m.err = errors.New("try again") })
			time.Sleep(700 * time.Millisecond) // less than the time between two rounds
			storage.set(func(m *memory) { m.err = nil })
			time.Sleep(3 * time.Second)
		}
		s.all("nothing was logged", func(n *node) bool { return n.lines("fleet storage unavailable, this node continues alone") == 0 })
	})
}

// Two halves that were separated agree within two seconds after they have the same
// storage again. The later of two operations wins everywhere.
func TestSplitFleet(t *testing.T) {
	run(t, 10, func(t *testing.T, s *simulation, storage *memory) {
		other := newMemory()
		storage.set(func(m *memory) { maps.Copy(other.values, m.values) })
		for _, n := range s.nodes[5:] {
			n.member.SetStorage(other, zap.New(zapcore.NewNopCore()))
		}
		time.Sleep(settle)
		s.nodes[0].client("a")
		s.nodes[9].operate(fleet.Drain, "b", true)
		s.nodes[4].operate(fleet.Drain, "a", true)
		time.Sleep(5 * time.Minute)
		s.nodes[9].operate(fleet.Drain, "b", false)
		s.nodes[9].operate(fleet.Drain, "a", false) // its second operation, so it is later than that of node04
		time.Sleep(settle)
		s.nodes[8].operate(fleet.Drain, "b", true)
		time.Sleep(settle)
		for i, n := range s.nodes {
			if left := i < 5; n.drained("a") != left || n.drained("b") == left || n.suspects("a") != (left && i > 0) {
				t.Errorf("%s: a drained %v, b drained %v, a suspect %v", n.id, n.drained("a"), n.drained("b"), n.suspects("a"))
			}
		}
		for _, n := range s.nodes[5:] {
			n.member.SetStorage(storage, zap.New(zapcore.NewNopCore()))
		}
		time.Sleep(settle)
		s.all("a is resumed and b is drained", func(n *node) bool { return !n.drained("a") && n.drained("b") })
		s.all("a is a suspect", func(n *node) bool { return n.id == "node00" || n.suspects("a") })
	})
}

// A node that has lost its state gets the drains of the fleet, and its suspects. Of
// the nodes that crashed, the records are removed.
func TestRestartWithLostState(t *testing.T) {
	run(t, 3, func(t *testing.T, s *simulation, storage *memory) {
		first, second := s.nodes[0], s.nodes[1]
		first.operate(fleet.Drain, "b", true)
		second.client("a")
		time.Sleep(settle)
		s.crash(first)
		fresh := s.start("node00-again", storage, 0)
		time.Sleep(settle)
		if !fresh.drained("b") || !fresh.suspects("a") || fresh.down("a") {
			t.Errorf("after a restart: b drained %v, a suspect %v, a down %v", fresh.drained("b"), fresh.suspects("a"), fresh.down("a"))
		}
		s.crash(second)
		time.Sleep(time.Minute)
		s.all("two nodes have vanished", func(n *node) bool { return n.lines("node vanished from the fleet") == 2 })
		s.all("the claim has gone with its node", func(n *node) bool { return !n.suspects("a") })
		time.Sleep(abandoned)
		if keys, _ := storage.List(t.Context(), "relay/fleet/test/nodes", false); len(keys) != 2 {
			t.Errorf("records: %v", keys)
		}
		s.all("b stays drained", func(n *node) bool { return n.drained("b") })
	})
}

// abandoned is longer than the record of a crashed node stays.
const abandoned = 11 * time.Minute

// A node that ends removes its record, and the others know within two seconds.
func TestLeaving(t *testing.T) {
	run(t, 3, func(t *testing.T, s *simulation, storage *memory) {
		gone := s.nodes[0]
		gone.client("a")
		time.Sleep(settle)
		s.nodes = s.nodes[1:]
		gone.member.Leave()
		time.Sleep(settle)
		s.all("the node has left", func(n *node) bool {
			return n.lines("node left the fleet") == 1 && n.lines("node vanished from the fleet") == 0 && !n.suspects("a")
		})
		if got := s.nodes[0].member.Status().Peers; len(got) != 1 {
			t.Errorf("peers: %v", got)
		}
	})
}

// Leave does not wait for a storage that hangs.
func TestLeavingAHangingStorage(t *testing.T) {
	run(t, 2, func(t *testing.T, s *simulation, storage *memory) {
		hang := make(chan struct{})
		storage.set(func(m *memory) { m.hang = hang })
		s.all("the storage is not stalled", func(n *node) bool { return !n.member.Stalled() })
		time.Sleep(10 * time.Second)
		s.all("the storage is stalled", func(n *node) bool { return n.member.Stalled() })
		began := time.Now()
		s.end()
		if waited := time.Since(began); waited > 5*time.Second {
			t.Errorf("two nodes waited for %s", waited)
		}
		close(hang) // the goroutines end
		s.nodes = nil
	})
}

// Records that this version does not read give one line each, and harm nothing.
func TestForeignRecords(t *testing.T) {
	run(t, 2, func(t *testing.T, s *simulation, storage *memory) {
		foreign := map[string]string{"newer": `{"version":2}`, "garbage": "\x00\xff", "other": `{"version":1,"node":"node01","sequence":9}`}
		for name, text := range foreign {
			_ = storage.Store(t.Context(), "relay/fleet/test/nodes/"+name+".json", []byte(text))
		}
		_ = storage.Store(t.Context(), "relay/fleet/test/nodes/.tmp-123", nil)
		time.Sleep(5 * time.Minute)
		s.all("three records were ignored once", func(n *node) bool { return n.lines("fleet record ignored") == 3 })
		s.nodes[0].operate(fleet.Drain, "a", true)
		time.Sleep(settle)
		s.all("a is drained", func(n *node) bool { return n.drained("a") })
	})
}

// A storage that has lost everything gets the records again.
func TestLostRecords(t *testing.T) {
	run(t, 5, func(t *testing.T, s *simulation, storage *memory) {
		s.nodes[0].operate(fleet.Drain, "a", true)
		time.Sleep(settle)
		storage.set(func(m *memory) { clear(m.values) })
		time.Sleep(2 * settle)
		if keys, _ := storage.List(t.Context(), "relay/fleet/test/nodes", false); len(keys) != 5 {
			t.Errorf("records: %v", keys)
		}
		s.all("a is drained", func(n *node) bool { return n.drained("a") })
		fresh := s.start("fresh", storage, 0)
		time.Sleep(settle)
		if !fresh.drained("a") {
			t.Error("a new node does not know of the drain")
		}
	})
}

// A panic of a storage module is an error of the storage.
func TestPanickingStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &simulation{t: t}
		n := s.start("node00", panicking{}, 0)
		time.Sleep(10 * time.Second)
		if st := n.member.Status(); st.Failing == nil || !strings.Contains(st.Failing.Error(), "the storage panicked: oh") {
			t.Errorf("status %+v", st)
		}
		s.end()
	})
}

type panicking struct{ fleet.Storage }

func (panicking) Store(context.Context, string, []byte) error { panic("oh") }

// The cost of an idle fleet: docs/fleet.md has these figures.
func TestIdleOperations(t *testing.T) {
	for nodes, want := range map[int][2]float64{2: {1.4, 0.11}, 5: {1.7, 0.11}, 50: {6.3, 0.11}} {
		run(t, nodes, func(t *testing.T, _ *simulation, storage *memory) {
			time.Sleep(time.Minute)
			reads, writes := storage.operations()
			time.Sleep(10 * time.Minute)
			reads2, writes2 := storage.operations()
			perSecond := func(n int) float64 { return float64(n) / 600 / float64(nodes) }
			r, w := perSecond(reads2-reads), perSecond(writes2-writes)
			t.Logf("%d nodes: %.2f reads and %.2f writes per node and second", nodes, r, w)
			if r > want[0] || w > want[1] {
				t.Errorf("%d nodes: %.2f reads and %.2f writes per node and second, want at most %v", nodes, r, w, want)
			}
		})
	}
}

// hanging is a storage of which one kind of operation hangs on demand.
type hanging struct {
	*memory
	deletes, loads atomic.Pointer[chan struct{}] // nil: they do not hang
}

func (s *hanging) Delete(ctx context.Context, key string) error {
	if hang := s.deletes.Load(); hang != nil {
		<-*hang
	}
	return s.memory.Delete(ctx, key)
}

func (s *hanging) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.memory.Load(ctx, key)
	if hang := s.loads.Load(); hang != nil {
		<-*hang
	}
	return value, err
}

// No operator waits for a storage that hangs while it deletes the record of a node that
// vanished.
func TestOperatorDoesNotWaitForDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, hang := &hanging{memory: newMemory()}, make(chan struct{})
		s := &simulation{t: t}
		n := s.start("node00", storage, 0)
		dead := `{"version":1,"node":"dead","sequence":9}`
		_ = storage.Store(t.Context(), "relay/fleet/test/nodes/dead.json", []byte(dead))
		storage.deletes.Store(&hang)
		time.Sleep(30 * time.Minute)
		done := make(chan struct{})
		go func() { defer close(done); n.operate(fleet.Drain, "b", true) }()
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("the operator waits for the storage")
		}
		storage.deletes.Store(nil)
		close(hang)
		<-done
		s.end()
	})
}

// A storage that answers after Leave has returned makes the node do nothing.
func TestNothingIsDoneAfterLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, hang := &hanging{memory: newMemory()}, make(chan struct{})
		s := &simulation{t: t}
		one, two := s.start("node00", storage, 0), s.start("node01", storage, 0)
		time.Sleep(settle)
		one.operate(fleet.Drain, "b", true)
		one.client("a")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		storage.loads.Store(&hang)
		time.Sleep(time.Second)
		two.member.Leave()
		storage.loads.Store(nil)
		close(hang)
		time.Sleep(settle)
		if two.drained("b") || two.suspects("a") {
			t.Errorf("after the node has left: b drained %v, a suspected %v", two.drained("b"), two.suspects("a"))
		}
		one.member.Leave()
	})
}

// unreadable is a storage that cannot load one record.
type unreadable struct{ *memory }

func (s unreadable) Load(ctx context.Context, key string) ([]byte, error) {
	if path.Base(key) == "bad.json" {
		return nil, errors.New("permission denied")
	}
	return s.memory.Load(ctx, key)
}

// One record that cannot be read gives one line, and keeps no node from reading the
// others, not even if its change is marked.
func TestUnreadableRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := unreadable{newMemory()}
		s := newSimulation(t, 2, storage)
		_ = storage.Store(t.Context(), "relay/fleet/test/nodes/bad.json", nil)
		for range 30 {
			time.Sleep(time.Second)
			text, _ := storage.Load(t.Context(), "relay/fleet/test/changed")
			_ = storage.Store(t.Context(), "relay/fleet/test/changed", append([]byte("bad 1\n"), text...))
		}
		s.nodes[0].operate(fleet.Drain, "a", true)
		time.Sleep(settle)
		s.all("a is drained", func(n *node) bool { return n.drained("a") })
		s.all("one record was ignored", func(n *node) bool {
			return n.lines("fleet record ignored") == 1 && n.lines("fleet storage unavailable, this node continues alone") == 0
		})
		s.end()
	})
}

// A node that joins during a hold knows of it within the time of all changes.
func TestJoiningDuringAHold(t *testing.T) {
	run(t, 3, func(t *testing.T, s *simulation, storage *memory) {
		o := fleet.Operation{Kind: fleet.Hold, Service: "web", On: true, Left: time.Minute.Milliseconds()}
		s.nodes[0].member.Do(o, func() bool { return true })
		time.Sleep(20 * time.Second)
		fresh := s.start("fresh", storage, 0)
		time.Sleep(settle)
		if got := fresh.repeated(); !slices.Equal(got, []string{"hold true by node00"}) {
			t.Errorf("the new node has repeated %v", got)
		}
	})
}

// A storm of changes makes no storm of operations on a storage that fails.
func TestChangesWhileTheStorageFails(t *testing.T) {
	run(t, 1, func(t *testing.T, s *simulation, storage *memory) {
		storage.set(func(m *memory) { m.err = errors.New("disk on fire") })
		time.Sleep(time.Second)
		_, before := storage.operations()
		for range 1000 {
			s.nodes[0].member.Changed()
			time.Sleep(10 * time.Millisecond)
		}
		if _, after := storage.operations(); after-before > 40 {
			t.Errorf("%d writes within 10 s", after-before)
		}
		storage.set(func(m *memory) { m.err = nil })
	})
}
