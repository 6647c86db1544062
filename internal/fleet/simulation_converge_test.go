package fleet_test

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/fleet"
)

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
