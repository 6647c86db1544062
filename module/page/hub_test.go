package page

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/module/api"
)

// startHub starts a hub in the bubble of a test.
func startHub(t *testing.T, relays Relays) *hub {
	h := newHub(relays)
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go h.run(ctx)
	t.Cleanup(func() { _ = h.Destruct() })
	synctest.Wait()
	return h
}

func watch(t *testing.T, h *hub) *watcher {
	t.Helper()
	w, err := h.watch()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func nameOf(t *testing.T, text json.RawMessage) string {
	t.Helper()
	var v serviceView
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v.Name
}

func TestHubSendsStateThenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relays := &fakeRelays{services: []api.Service{*queue(api.StateUp), *queue(api.StateUp)}, journals: map[string][]api.JournalEntry{}}
		relays.services[1].Name = "web"
		h := startHub(t, relays)
		w := watch(t, h)
		state := next(t, w)
		if state.name != "state" || len(state.Services) != 2 || len(state.Order) != 2 || state.Journal != nil {
			t.Errorf("the first event is %s with %d services", state.name, len(state.Services))
		}
		if text := string(state.Services[0]); strings.Contains(text, "secret") {
			t.Errorf("an event has the key of a service: %s", text)
		}
		relays.change(func() {
			relays.services[1].Backends[0].State = api.StateDown
			relays.journals["web"] = []api.JournalEntry{{Time: time.Now(), Kind: "strike", Backend: "a"}}
		})
		began := time.Now()
		changed := next(t, w)
		if changed.name != "update" || len(changed.Services) != 1 || nameOf(t, changed.Services[0]) != "web" || changed.Order != nil || len(changed.Journal) != 1 {
			t.Errorf("the change is %+v", changed)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the change came after %s", took)
		}
		relays.change(func() { relays.services = relays.services[:1] })
		if gone := next(t, w); gone.Services != nil || len(gone.Order) != 1 {
			t.Errorf("the end of a service is %+v", gone)
		}
		began = time.Now()
		quiet := next(t, w)
		if quiet.Services != nil || time.Since(began) < time.Second || time.Since(began) > 2*quietFor {
			t.Errorf("without changes the event %+v came after %s", quiet, time.Since(began))
		}
	})
}

func TestHubDoesNothingWithoutWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relays := &fakeRelays{services: []api.Service{*queue(api.StateUp)}}
		h := startHub(t, relays)
		before := relays.countReads()
		time.Sleep(10*sampleEvery + time.Millisecond)
		if got := relays.countReads() - before; got != 10 {
			t.Errorf("without watchers the services were read %d times in 100 s, want 10", got)
		}
		w := watch(t, h)
		next(t, w)
		h.leave(w)
		time.Sleep(time.Second)
		before = relays.countReads()
		time.Sleep(10 * sampleEvery)
		if got := relays.countReads() - before; got != 10 {
			t.Errorf("after the last watcher has left, the services were read %d times in 100 s, want 10", got)
		}
		if h.services["secret orders"].view != nil || h.journal != nil {
			t.Error("what only watchers need was kept")
		}
	})
}

func TestHubReadsOnceForAllWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relays := &fakeRelays{services: []api.Service{*queue(api.StateUp)}}
		h := startHub(t, relays)
		var watchers []*watcher
		for range 50 {
			w := watch(t, h)
			next(t, w)
			watchers = append(watchers, w)
		}
		synctest.Wait()
		before := relays.countReads()
		time.Sleep(4 * time.Second)
		if got, most := relays.countReads()-before, int(4*time.Second/publishEvery)+1; got > most {
			t.Errorf("50 watchers caused %d reads in 4 s, want at most %d", got, most)
		}
		for _, w := range watchers {
			h.leave(w)
		}
	})
}

func TestHubKeepsHistoryForTheFirstWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relays := &fakeRelays{services: []api.Service{*queue(api.StateUp)}}
		h := startHub(t, relays)
		relays.change(func() { relays.services[0].Totals.Connections = 7 })
		time.Sleep(3 * sampleEvery)
		w := watch(t, h)
		state := next(t, w)
		history := state.History[1]
		if history == nil || history.Connections[samples-3] != 7 || history.Connections[samples-1] != 0 {
			t.Fatalf("the history is %+v", history)
		}
		relays.change(func() { relays.services[0].Totals.Connections = 9 })
		for {
			if e := next(t, w); e.name == "sample" {
				if e.Steps[1] != [3]uint64{2, 0, 0} {
					t.Errorf("the step is %v", e.Steps)
				}
				break
			}
		}
		h.leave(w)
	})
}

func TestSlowWatcherLosesItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relays := &fakeRelays{services: []api.Service{*queue(api.StateUp)}}
		h := startHub(t, relays)
		slow, quick := watch(t, h), watch(t, h)
		for range 2 * frameQueue {
			relays.change(func() { relays.services[0].Totals.Connections++; relays.services[0].Evicted++ })
			time.Sleep(publishEvery)
			synctest.Wait()
			for len(quick.frames) > 0 {
				next(t, quick)
			}
		}
		n := 0
		for range slow.frames { // ends, because the hub has closed it
			n++
		}
		if n > frameQueue {
			t.Errorf("the slow watcher got %d events", n)
		}
		h.leave(slow) // as its request does
		h.leave(quick)
	})
}

func TestTooManyWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHub(t, &fakeRelays{})
		var last *watcher
		for range maxWatchers {
			last = watch(t, h)
		}
		if _, err := h.watch(); err != errTooManyWatchers {
			t.Errorf("one watcher more: %v", err)
		}
		h.leave(last)
		synctest.Wait()
		watch(t, h)
	})
}
