package fleet_test

import (
	"context"
	"errors"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/fleet"
)

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
