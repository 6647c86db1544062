package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
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

func (n *node) down(backend string) bool { return n.pool.Backend(backend).Down(upstream.TCP) }

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

// abandoned is longer than the record of a crashed node stays.
const abandoned = 11 * time.Minute
