package hook

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// fakeRuns stands in for commands: each takes a second, and is noted.
type fakeRuns struct {
	mu      sync.Mutex // guards what follows
	now     map[string]bool
	most    int      // at once
	clashed bool     // two of one service at once
	began   []string // service and number
}

func (f *fakeRuns) execute(_ context.Context, j job) {
	f.mu.Lock()
	service := j.event.Service
	f.clashed = f.clashed || f.now[service]
	f.now[service] = true
	f.most = max(f.most, len(f.now))
	f.began = append(f.began, fmt.Sprint(service, j.event.FailureCount))
	f.mu.Unlock()
	time.Sleep(time.Second)
	f.mu.Lock()
	delete(f.now, service)
	f.mu.Unlock()
}

// of are the runs of a service.
func (f *fakeRuns) of(service string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.began), func(run string) bool { return !strings.HasPrefix(run, service) })
}

func newFake() (*Runner, *fakeRuns, Config, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	runs := &fakeRuns{now: make(map[string]bool)}
	r := New(Limits{})
	r.execute = runs.execute
	return r, runs, Config{Log: zap.New(core)}, logs
}

func event(service string, number int) Event {
	return Event{Type: BackendFailed, Service: service, FailureCount: number}
}

// Services run side by side, four at once, and each in its own order.
func TestOrderOfServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, runs, cfg, _ := newFake()
		services := []string{"a", "b", "c", "d", "e", "f"}
		began := time.Now()
		for number := range 10 {
			for _, service := range services {
				r.Run(cfg, event(service, number))
			}
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("Run took %v", waited)
		}
		for len(runs.of("")) < 60 {
			time.Sleep(time.Second)
		}
		for _, service := range services {
			for number, run := range runs.of(service) {
				if run != fmt.Sprint(service, number) {
					t.Fatalf("%s ran as number %d", run, number)
				}
			}
		}
		if took := time.Since(began); runs.most != 4 || runs.clashed || took > 17*time.Second {
			t.Errorf("%d at once, two of a service at once: %v, all in %v", runs.most, runs.clashed, took)
		}
		check(t, r.Close())
	})
}

// A service that has much to say leaves the others their turn.
func TestOneServiceBlocksNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, runs, cfg, _ := newFake()
		for number := range 20 {
			r.Run(cfg, event("a", number))
		}
		r.Run(cfg, event("b", 0))
		synctest.Wait()
		if got := runs.of(""); len(got) != 2 {
			t.Errorf("running: %v", got)
		}
		check(t, r.Close())
	})
}

// What there is no room for is dropped, counted, and told a line a second.
func TestDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, runs, cfg, logs := newFake()
		for number := range 1 + 64 {
			r.Run(cfg, event("a", number))
		}
		if r.Dropped() != 0 {
			t.Fatalf("%d dropped", r.Dropped())
		}
		for range 25 { // in two and a half seconds, in which two of 64 run
			r.Run(cfg, event("a", 1000))
			r.Run(cfg, event("a", 1000))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * dropsEvery)
		lines := logs.FilterMessage("events dropped").All()
		told := uint64(0)
		for _, line := range lines {
			told += line.ContextMap()["count"].(uint64)
			if line.Level != zap.ErrorLevel || line.ContextMap()["error"] != errFull.Error() || line.ContextMap()["service"] != "a" {
				t.Errorf("%s: %v", line.Level, line.ContextMap())
			}
		}
		if len(lines) != 4 || told != 48 || r.Dropped() != 48 {
			t.Errorf("%d lines of %d, %d counted", len(lines), told, r.Dropped())
		}
		check(t, r.Close())
		if got := len(runs.of("")); got > 6 {
			t.Errorf("%d ran", got)
		}
	})
}

// Close says at once what was dropped, and nothing runs after it.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, runs, cfg, logs := newFake()
		for number := range 1 + 64 + 10 {
			r.Run(cfg, event("a", number))
		}
		began := time.Now()
		check(t, r.Close())
		if took := time.Since(began); took != time.Second {
			t.Errorf("closed after %v", took)
		}
		var told []uint64
		for _, line := range logs.FilterMessage("events dropped").All() {
			told = append(told, line.ContextMap()["count"].(uint64))
			if !line.Time.Equal(began) {
				t.Errorf("told %v after the fact", line.Time.Sub(began))
			}
		}
		if !slices.Equal(told, []uint64{1, 9 + 64}) {
			t.Errorf("told of %v", told)
		}
		r.Run(cfg, event("b", 0))
		check(t, r.Close())
		synctest.Wait()
		if got := runs.of(""); len(got) != 1 {
			t.Errorf("ran: %v", got)
		}
	})
}

// A command that the system does not let end holds Close only so long.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, cfg, _ := newFake()
		r.execute = func(context.Context, job) { time.Sleep(time.Hour) }
		r.Run(cfg, event("a", 0))
		began := time.Now()
		if err := r.Close(); err == nil || !strings.Contains(err.Error(), "1 still run") {
			t.Errorf("closed: %v", err)
		}
		if took := time.Since(began); took != closePatience {
			t.Errorf("closed after %v", took)
		}
		time.Sleep(time.Hour)
	})
}

func TestEventsAreChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, runs, cfg, _ := newFake()
		cfg.Events = []string{BackendRecovered, AllBackendsUnavailable}
		r.Run(cfg, event("failed", 0))
		r.Run(cfg, Event{Type: BackendRecovered, Service: "recovered"})
		cfg.Events = nil
		r.Run(cfg, event("any", 0))
		synctest.Wait()
		if got := runs.of(""); len(got) != 2 || len(runs.of("failed")) != 0 {
			t.Errorf("ran: %v", got)
		}
		check(t, r.Close())
	})
}

// The order holds for real commands too, and nothing is left of an idle runner.
func TestCommandsInOrder(t *testing.T) {
	r := newRig(t)
	before := len(goroutines())
	runner := New(Limits{})
	file := filepath.Join(t.TempDir(), "order")
	const all = 8
	for number := range all {
		runner.Run(r.config("count", file), event("test", number))
	}
	for deadline := time.Now().Add(limit); r.logs.Len() < all || len(goroutines()) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, had %d, and logged:\n%s", len(goroutines()), before, r.transcript())
		}
	}
	text, err := os.ReadFile(file)
	check(t, err)
	if string(text) != "0 1 2 3 4 5 6 7 " {
		t.Errorf("the order was %s", text)
	}
	check(t, runner.Close())
}
