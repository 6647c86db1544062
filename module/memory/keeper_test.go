package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// fakeStore is a storage that a test makes fail and hang.
type fakeStore struct {
	mu     sync.Mutex
	values map[string][]byte
	writes []time.Time
	err    error
	hangs  chan struct{} // operations wait until it is closed; nil: they do not
	panics bool
}

func (s *fakeStore) begin() error {
	if s.panics {
		panic("broken")
	}
	s.mu.Lock()
	hangs, err := s.hangs, s.err
	s.mu.Unlock()
	if hangs != nil {
		<-hangs // heeds no context, like a file system that hangs
	}
	return err
}

func (s *fakeStore) Load(_ context.Context, key string) ([]byte, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, ok := s.values[key]; ok {
		return value, nil
	}
	return nil, fs.ErrNotExist
}

func (s *fakeStore) Store(_ context.Context, key string, value []byte) error {
	if err := s.begin(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = make(map[string][]byte)
	}
	s.values[key] = value
	s.writes = append(s.writes, time.Now())
	return nil
}

func (s *fakeStore) Delete(_ context.Context, key string) error {
	if err := s.begin(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

func (s *fakeStore) set(err error, hangs chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.hangs = err, hangs
}

func (s *fakeStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.writes)
}

// kept is a process with a keeper.
type kept struct {
	*Keeper
	store *fakeStore

	mu    sync.Mutex
	order []string // of the queue; the state
	lines []string
}

func keep(store *fakeStore, pid int, change func(*Config)) *kept {
	k := &kept{store: store}
	cfg := Config{
		Store: store, Key: "key", Age: time.Hour, Writer: Writer{ID: fmt.Sprint(pid), Host: "h", PID: pid, Started: time.Now()},
		Snapshot: func() Record {
			k.mu.Lock()
			defer k.mu.Unlock()
			var queue upstream.Saved
			for _, b := range k.order {
				queue.Backends = append(queue.Backends, upstream.SavedBackend{Backend: b})
			}
			return Record{Services: map[string]Service{"name s": {Queue: queue}}}
		},
		Failed:    func(err error) { k.log("failed: " + err.Error()) },
		Recovered: func() { k.log("recovered") },
	}
	if change != nil {
		change(&cfg)
	}
	k.Keeper = Keep(cfg)
	return k
}

func (k *kept) log(line string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lines = append(k.lines, line)
}

func (k *kept) change(order string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.order = strings.Fields(order)
}

func (k *kept) want(t *testing.T, writes int, order string, lines ...string) {
	t.Helper()
	synctest.Wait()
	if got := k.store.count(); got != writes {
		t.Errorf("%d writes, want %d", got, writes)
	}
	var got []string
	if text := k.store.values["key"]; text != nil {
		r, err := Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range r.Services["name s"].Queue.Backends {
			got = append(got, b.Backend)
		}
	}
	if strings.Join(got, " ") != order {
		t.Errorf("stored %q, want %q", got, order)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Equal(k.lines, lines) {
		t.Errorf("logged %q, want %q", k.lines, lines)
	}
}

// The record is written when the state changes, at most once a second, and a tenth of
// its age after the last write.
func TestKeeperWritesChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(&fakeStore{}, 1, nil)
		k.change("a b")
		time.Sleep(1100 * time.Millisecond)
		k.want(t, 1, "a b")
		time.Sleep(time.Minute)
		k.want(t, 1, "a b")
		for range 100 { // changes in ten seconds
			k.change("b a")
			time.Sleep(50 * time.Millisecond)
			k.change("a b")
			time.Sleep(50 * time.Millisecond)
		}
		if n := k.store.count(); n > 11 {
			t.Errorf("%d writes in ten seconds", n-1)
		}
		k.change("b a")
		time.Sleep(1100 * time.Millisecond)
		before := k.store.count()
		time.Sleep(6*time.Minute + time.Second)
		k.want(t, before+1, "b a")
		k.Finish(Record{}, time.Second)
		k.want(t, before+2, "")
	})
}

// A storage that fails is one line per episode, and is tried again, ever less often.
func TestKeeperWithFailingStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(&fakeStore{err: errors.New("disk full")}, 1, nil)
		k.change("a")
		time.Sleep(10 * time.Minute)
		k.want(t, 0, "", "failed: disk full")
		k.store.set(nil, nil)
		time.Sleep(maxPause + interval)
		k.want(t, 1, "a", "failed: disk full", "recovered")
		k.Stop()
	})
}

// A storage that hangs blocks no caller. No second operation is begun before the first
// one returns.
func TestKeeperWithHangingStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := make(chan struct{})
		k := keep(&fakeStore{hangs: hangs}, 1, nil)
		k.change("a")
		time.Sleep(10 * time.Minute)
		k.want(t, 0, "", "failed: the storage does not answer")
		began := time.Now()
		k.Finish(Record{}, time.Second)
		if took := time.Since(began); took > time.Second {
			t.Errorf("Finish took %v", took)
		}
		after := keep(k.store, 1, func(c *Config) { c.Before = k.Keeper })
		after.change("b")
		k.store.set(nil, nil)
		time.Sleep(stuck + 2*time.Second)
		after.want(t, 1, "b")
		after.Stop()
		close(hangs)
		synctest.Wait()
	})
}

func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fakeStore{}
		load := func() (*Record, error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return Load(ctx, store, "key", time.Hour)
		}
		if r, err := load(); r != nil || err != nil {
			t.Errorf("%v, %v from an empty storage", r, err)
		}
		store.values = map[string][]byte{"key": Record{SavedAt: time.Now()}.Encode()}
		time.Sleep(time.Hour)
		if r, err := load(); r == nil || err != nil {
			t.Errorf("%v, %v", r, err)
		}
		time.Sleep(time.Minute)
		var tooOld *TooOldError
		if _, err := load(); !errors.As(err, &tooOld) || tooOld.Age != time.Hour+time.Minute {
			t.Errorf("error %v of an old record", err)
		}
		hangs := make(chan struct{})
		store.set(nil, hangs)
		began := time.Now()
		if _, err := load(); err == nil || time.Since(began) != time.Second {
			t.Errorf("error %v of a storage that hangs, after %v", err, time.Since(began))
		}
		close(hangs)
		store.set(errors.New("broken"), nil)
		if _, err := load(); err == nil || err.Error() != "broken" {
			t.Errorf("error %v", err)
		}
	})
}

// Nothing is written for a config that is not accepted, nor while the keeper is paused.
func TestKeeperWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rejected := keep(&fakeStore{}, 1, func(c *Config) { c.Accepted = func() bool { return false } })
		rejected.change("a")
		time.Sleep(time.Minute)
		rejected.Finish(Record{}, time.Second)
		rejected.want(t, 0, "")

		k := keep(&fakeStore{}, 1, nil)
		k.change("a")
		k.Pause()
		time.Sleep(time.Minute)
		k.want(t, 0, "")
		k.Resume()
		time.Sleep(2 * time.Second)
		k.want(t, 1, "a")
		k.Freeze(Record{})
		k.change("b")
		time.Sleep(2 * time.Second)
		k.want(t, 2, "")
		k.Forget()
		synctest.Wait()
		if len(k.store.values) != 0 {
			t.Error("the record was not deleted")
		}
	})
}

// The time at which a snapshot is taken is not a change.
func TestKeeperIgnoresTheTimeOfSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(&fakeStore{}, 1, func(c *Config) {
			snapshot := c.Snapshot
			c.Snapshot = func() Record {
				r := snapshot()
				r.SavedAt = time.Now()
				return r
			}
		})
		k.change("a b")
		time.Sleep(time.Minute)
		k.want(t, 1, "a b")
		k.Stop()
	})
}

// A panic of a storage module is an error.
func TestStorageThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fakeStore{panics: true}
		if _, err := Load(t.Context(), store, "key", time.Hour); err == nil || !strings.Contains(err.Error(), "panicked: broken") {
			t.Errorf("error %v", err)
		}
		k := keep(store, 1, nil)
		k.change("a")
		time.Sleep(2 * time.Second)
		k.want(t, 0, "", "failed: the storage panicked: broken")
		k.Finish(Record{}, time.Second)
		forgotten := keep(store, 1, nil)
		time.Sleep(2 * time.Second)
		forgotten.Forget()
		synctest.Wait()
	})
}
