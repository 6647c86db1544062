package memory

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// overtaken returns the keepers of two processes with one record. The later one has
// written b, and the older one wants to write c.
func overtaken(store *fakeStore) (older, later *kept) {
	older = keep(store, 1, nil)
	older.change("a")
	time.Sleep(2 * time.Second)
	later = keep(store, 2, nil)
	later.change("b")
	time.Sleep(2 * time.Second)
	older.change("c")
	return older, later
}

// refused is the log line of the older one, which may not write.
const refused = "failed: process 2 on h, which has started later, writes the same memory: give each instance a name of its own"

// Of two processes with one record, the later one keeps it. A process that follows a
// killed one replaces its record, whatever its clock says.
func TestKeeperOfTwoProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fakeStore{}
		older, later := overtaken(store)
		time.Sleep(2 * time.Second)
		older.want(t, 2, "b", refused)
		later.change("d")
		time.Sleep(2 * time.Second)
		later.want(t, 3, "d")
		older.Forget() // must not delete the other's record
		synctest.Wait()
		later.want(t, 3, "d")
		later.Stop()

		store.values["key"] = Record{SavedAt: time.Now(), Writer: Writer{Host: "h", PID: 9, Started: time.Now().Add(time.Hour)}}.Encode()
		next := keep(store, 3, nil)
		next.change("e")
		time.Sleep(2 * time.Second)
		next.change("f")
		time.Sleep(2 * time.Second)
		next.want(t, 5, "f")
		next.Stop()
	})
}

// A keeper does not keep its predecessors, and with them their configs, in memory.
func TestKeeperReleasesItsPredecessor(t *testing.T) {
	store := &fakeStore{}
	first := Keep(Config{Store: store, Snapshot: func() Record { return Record{} }, Age: time.Hour})
	released := weak.Make(first)
	first.Stop()
	second := Keep(Config{Store: store, Snapshot: func() Record { return Record{} }, Age: time.Hour, Before: first})
	defer second.Stop()
	first = nil
	relaytest.Eventually(t, "the end of the first keeper", func() bool {
		runtime.GC()
		return released.Value() == nil
	})
}

// After a reload, a process still does not replace the record of a process that has
// started later.
func TestKeeperOfTwoProcessesAfterReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fakeStore{}
		first := keep(store, 1, nil)
		first.change("a")
		time.Sleep(2 * time.Second)
		started := first.cfg.Writer.Started
		later := keep(store, 2, nil)
		later.change("b")
		time.Sleep(2 * time.Second)
		first.Stop()
		second := keep(store, 1, func(c *Config) { c.Before, c.Writer.Started = first.Keeper, started })
		second.change("c")
		time.Sleep(2 * time.Second)
		second.want(t, 2, "b", "failed: process 2 on h, which has started later, writes the same memory: give each instance a name of its own")
		second.Stop()
		later.Stop()
	})
}

// A process takes its memory back when the process that has started later does not
// write it any more.
func TestKeeperTakesTheRecordBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fakeStore{}
		older, later := overtaken(store)
		time.Sleep(time.Hour) // the other one writes it six times meanwhile
		older.want(t, store.count(), "b", refused)
		later.Stop() // as at a kill
		time.Sleep(10 * time.Minute)
		older.want(t, store.count(), "b", refused)
		time.Sleep(15 * time.Minute)
		older.want(t, store.count(), "c", refused, "recovered")
		older.Stop()
	})
}

// Two containers of one host name, whose processes have the PID 1, are two processes. A
// process recognizes its own record after its clock was set back.
func TestKeeperOfTwoContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fakeStore{}
		older := keep(store, 1, func(c *Config) { c.Writer.ID = "older" })
		older.change("a")
		time.Sleep(2 * time.Second)
		later := keep(store, 1, func(c *Config) { c.Writer.ID = "later" })
		later.change("b")
		time.Sleep(2 * time.Second)
		older.change("c")
		time.Sleep(2 * time.Second)
		older.want(t, 2, "b", "failed: process 1 on h, which has started later, writes the same memory: give each instance a name of its own")
		older.Stop()

		record, err := Decode(store.values["key"])
		if err != nil {
			t.Fatal(err)
		}
		record.Writer.Started = record.Writer.Started.Add(time.Hour)
		store.values["key"] = record.Encode()
		later.change("d")
		time.Sleep(2 * time.Second)
		later.want(t, 3, "d")
		later.Stop()
	})
}

// A write that hung does not replace a newer record when the storage answers again: not
// that of the next keeper, nor that of another process.
func TestKeeperWithLateWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := make(chan struct{})
		store := &fakeStore{}
		first := keep(store, 1, nil)
		first.change("a")
		time.Sleep(2 * time.Second)
		store.set(nil, hangs)
		first.change("b")
		time.Sleep(2 * time.Second)
		first.Stop()
		store.set(nil, nil)
		second := keep(store, 1, func(c *Config) { c.Before = first.Keeper })
		second.change("c")
		time.Sleep(stuck + 2*time.Second)
		second.want(t, 2, "c")
		close(hangs)
		second.want(t, 2, "c")
		second.Stop()

		hangs = make(chan struct{})
		third := keep(store, 1, func(c *Config) { c.Before = second.Keeper })
		store.set(nil, hangs)
		third.change("d")
		time.Sleep(2 * maxPause)
		store.set(nil, nil)
		store.values["key"] = Record{SavedAt: time.Now()}.Encode()
		close(hangs)
		synctest.Wait()
		if n := store.count(); n != 2 {
			t.Errorf("%d writes, want none of a call that began a minute ago", n-2)
		}
		third.Stop()
	})
}
