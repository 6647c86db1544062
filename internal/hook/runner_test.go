package hook

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/loglimit"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// fakeRuns replaces commands in tests: each run takes a second and is recorded.
type fakeRuns struct {
	mu      sync.Mutex      // guards the fields below
	running map[string]bool // services
	most    int             // runs in parallel
	clashed bool            // two runs of one service in parallel
	started []string        // service and number of each run, in order
}

func (f *fakeRuns) execute(_ context.Context, j job) {
	f.mu.Lock()
	service := j.event.Service
	f.clashed = f.clashed || f.running[service]
	f.running[service] = true
	f.most = max(f.most, len(f.running))
	f.started = append(f.started, fmt.Sprint(service, j.event.FailureCount))
	f.mu.Unlock()
	time.Sleep(time.Second)
	f.mu.Lock()
	delete(f.running, service)
	f.mu.Unlock()
}

// of returns the runs of services whose name begins with service, in order.
func (f *fakeRuns) of(service string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.started), func(run string) bool { return !strings.HasPrefix(run, service) })
}

func newFake() (*Runner, *fakeRuns, Config, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	runs := &fakeRuns{running: make(map[string]bool)}
	r := New(Limits{})
	r.execute = runs.execute
	return r, runs, Config{Log: zap.New(core)}, logs
}

func event(service string, number int) Event {
	return Event{Type: BackendFailed, Service: service, FailureCount: number}
}

// Services run in parallel, four at a time. The events of each keep their order.
func TestOrderOfServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, runs, cfg, _ := newFake()
		services := []string{"a", "b", "c", "d", "e", "f"}
		started := time.Now()
		for number := range 10 {
			for _, service := range services {
				r.Run(cfg, event(service, number))
			}
		}
		if waited := time.Since(started); waited != 0 {
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
		if took := time.Since(started); runs.most != 4 || runs.clashed || took > 17*time.Second {
			t.Errorf("%d in parallel, two of one service in parallel: %v, total time %v", runs.most, runs.clashed, took)
		}
		relaytest.Check(t, r.Close())
	})
}

// A service with many waiting events does not delay other services.
func TestBusyServiceDoesNotBlockOthers(t *testing.T) {
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
		relaytest.Check(t, r.Close())
	})
}

// Events that find the queue full are dropped, counted, and logged in one line a
// second.
func TestDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, runs, cfg, logs := newFake()
		for number := range 1 + 64 {
			r.Run(cfg, event("a", number))
		}
		if r.Dropped() != 0 {
			t.Fatalf("%d dropped", r.Dropped())
		}
		for range 25 { // takes 2.5 seconds, in which two of the 64 run
			r.Run(cfg, event("a", 1000))
			r.Run(cfg, event("a", 1000))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * loglimit.Interval)
		lines := logs.FilterMessage("events dropped").All()
		logged := uint64(0)
		for _, line := range lines {
			logged += line.ContextMap()["count"].(uint64)
			if line.Level != zap.ErrorLevel || line.ContextMap()["error"] != errFull.Error() || line.ContextMap()["service"] != "a" {
				t.Errorf("%s: %v", line.Level, line.ContextMap())
			}
		}
		if len(lines) != 4 || logged != 48 || r.Dropped() != 48 {
			t.Errorf("%d lines about %d events, %d counted", len(lines), logged, r.Dropped())
		}
		relaytest.Check(t, r.Close())
		if got := len(runs.of("")); got > 6 {
			t.Errorf("%d ran", got)
		}
	})
}

// Close logs dropped events at once, and nothing runs after it.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, runs, cfg, logs := newFake()
		for number := range 1 + 64 + 10 {
			r.Run(cfg, event("a", number))
		}
		started := time.Now()
		relaytest.Check(t, r.Close())
		if took := time.Since(started); took != time.Second {
			t.Errorf("closed after %v", took)
		}
		var logged []uint64
		for _, line := range logs.FilterMessage("events dropped").All() {
			logged = append(logged, line.ContextMap()["count"].(uint64))
			if !line.Time.Equal(started) {
				t.Errorf("logged %v late", line.Time.Sub(started))
			}
		}
		if !slices.Equal(logged, []uint64{1, 9 + 64}) {
			t.Errorf("logged counts %v", logged)
		}
		r.Run(cfg, event("b", 0))
		relaytest.Check(t, r.Close())
		synctest.Wait()
		if got := runs.of(""); len(got) != 1 {
			t.Errorf("ran: %v", got)
		}
	})
}

// Close returns after closeTimeout even if a command cannot be ended.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, cfg, _ := newFake()
		r.execute = func(context.Context, job) { time.Sleep(time.Hour) }
		r.Run(cfg, event("a", 0))
		started := time.Now()
		if err := r.Close(); err == nil || !strings.Contains(err.Error(), "1 still running") {
			t.Errorf("closed: %v", err)
		}
		if took := time.Since(started); took != closeTimeout {
			t.Errorf("closed after %v", took)
		}
		time.Sleep(time.Hour)
	})
}

// A command runs only for the events of its Config.
func TestEventsFilter(t *testing.T) {
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
		relaytest.Check(t, r.Close())
	})
}

// Real commands run in order too, and an idle Runner has no goroutines.
func TestCommandsInOrder(t *testing.T) {
	r := newRig(t)
	before := runtime.NumGoroutine()
	runner := New(Limits{})
	file := filepath.Join(t.TempDir(), "order")
	const all = 8
	for number := range all {
		runner.Run(r.config("count", file), event("test", number))
	}
	for deadline := time.Now().Add(relaytest.Limit); r.logs.Len() < all || runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before; log:\n%s", runtime.NumGoroutine(), before, r.transcript())
		}
	}
	text, err := os.ReadFile(file)
	relaytest.Check(t, err)
	if string(text) != "0 1 2 3 4 5 6 7 " {
		t.Errorf("the order was %s", text)
	}
	relaytest.Check(t, runner.Close())
}
