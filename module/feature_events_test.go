package module_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// listener is a subscriber to Caddy's events that keeps what it is told for
// the test that runs.
type listener struct {
	Panics bool `json:"panics,omitempty"`
}

// heard is what listeners have kept.
var heard struct {
	mu     sync.Mutex // guards what follows
	events []caddy.Event
	gate   chan struct{} // where they wait first; nil: they do not
}

func init() {
	caddy.RegisterModule(listener{})
	caddy.RegisterModule(slowStart{})
}

func (listener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.relay_test", New: func() caddy.Module { return new(listener) }}
}

func (l *listener) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	l.Panics = d.NextArg()
	return nil
}

func (l *listener) Handle(_ context.Context, e caddy.Event) error {
	heard.mu.Lock()
	heard.events = append(heard.events, e)
	gate := heard.gate
	heard.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if l.Panics {
		panic("a subscriber's fault")
	}
	return nil
}

// subscribed is the global option that subscribes to the relay's events.
const subscribed = `events {
	on backend_failed relay_test
	on backend_recovered relay_test
	on all_backends_unavailable relay_test
}`

// listen empties what listeners keep; with gate they wait for its end.
func listen(t *testing.T, gate chan struct{}) {
	set := func(gate chan struct{}) {
		heard.mu.Lock()
		defer heard.mu.Unlock()
		heard.events, heard.gate = nil, gate
	}
	set(gate)
	t.Cleanup(func() { set(nil) })
}

// hear waits for so many events and gives all, each as its name and port.
func hear(t *testing.T, n int) (events []caddy.Event, told []string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events", n), func() bool {
		heard.mu.Lock()
		defer heard.mu.Unlock()
		events = append(events[:0], heard.events...)
		return len(events) >= n
	})
	for _, e := range events {
		name := e.Name()
		if backend, ok := e.Data["backend"].(string); ok {
			name += " " + portOf(backend)
		}
		told = append(told, name)
	}
	return events, told
}

// Subscribers are told the same as event hooks.
func TestSubscribersAreTold(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		listen(t, nil)
		a, b, at, r := newMortal(t), newMortal(t), freeAddr(t), record(t, "")
		startWith(t, subscribed, block("TCP/"+at, fmt.Sprintf("%s %s {\n name told\n %s\n }", a.addr, b.addr, r.hook)))
		want := fmt.Sprint(twoOutages(t, at, a, b))
		events, told := hear(t, 7)
		if got := fmt.Sprint(told); got != want {
			t.Fatalf("told of\n%s, want\n%s", got, want)
		}
		r.wait(7)
		for i, run := range r.events() {
			e := events[i]
			if fmt.Sprint(e.Data["failure_count"]) != run["RELAY_FAILURE_COUNT"] || fmt.Sprint(e.Data["available_count"]) != run["RELAY_AVAILABLE_COUNT"] || fmt.Sprint(e.Data["total_count"]) != run["RELAY_TOTAL_COUNT"] {
				t.Errorf("event %d: counts of %v, the hook's are %v", i, e.Data, run)
			}
			if when := caddy.ToString(e.Data["timestamp"]); when != run["RELAY_TIMESTAMP"] {
				t.Errorf("event %d: at %v, the hook's is of %s", i, when, run["RELAY_TIMESTAMP"])
			}
			if e.Data["service"] != "told" || e.Data["network"] != "tcp" || e.Data["address"] != e.Data["backend"] {
				t.Errorf("event %d: %v", i, e.Data)
			}
			if origin := e.Origin(); origin == nil || origin.CaddyModule().ID != "layer4.handlers.relay" {
				t.Errorf("event %d: origin %v", i, origin)
			}
		}
	})
}

// A subscriber that blocks delays no client, and gets the events in their
// order once it goes on, also those of a config that has ended meanwhile.
func TestSubscriberThatBlocks(t *testing.T) {
	gate := make(chan struct{})
	listen(t, gate)
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	config := func(idle string) string {
		return block("TCP/"+at, fmt.Sprintf("%s %s {\n name told\n idle_timeout %s\n }", a.addr, b.addr, idle))
	}
	s := startWith(t, subscribed, config("1m"))
	want := fmt.Sprint(twoOutages(t, at, a, b))
	if _, told := hear(t, 1); len(told) != 1 {
		t.Errorf("the subscriber did not block: %v", told)
	}
	s.mustReload(config("2m"))
	s.mustReload(config("3m"))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("after the reloads: got %q", got)
	}
	open()
	if _, told := hear(t, 7); fmt.Sprint(told) != want {
		t.Errorf("told of\n%s, want\n%s", told, want)
	}
}

// What a subscriber that never goes on leaves behind is bounded, and told.
func TestSubscriberThatIsStuck(t *testing.T) {
	gate := make(chan struct{})
	listen(t, gate)
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	s := startWith(t, subscribed, block("TCP/"+at, fmt.Sprintf("%s %s {\n name told\n }", a.addr, b.addr)))
	dropped := func() int { return len(s.lines("event dropped: subscribers too slow")) }
	for dropped() == 0 {
		twoOutages(t, at, a, b)
		a.rise()
		a, b = b, a
		if t.Failed() {
			return
		}
	}
	open()
	const waited = 256
	if _, told := hear(t, 1+waited); len(told) != 1+waited {
		t.Errorf("%d events, want the one that was stuck and %d that waited", len(told), waited)
	}
}

// What is wrong with a subscriber is its own affair.
func TestSubscriberThatPanics(t *testing.T) {
	listen(t, nil)
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	s := startWith(t, "events {\n on backend_failed relay_test panics\n on all_backends_unavailable relay_test\n }",
		block("TCP/"+at, fmt.Sprintf("%s %s {\n name told\n }", a.addr, b.addr)))
	twoOutages(t, at, a, b)
	hear(t, 5)
	eventually(t, "the panics to be told", func() bool { return len(s.lines("event subscriber panicked")) == 3 })
}

// slowStart is an app that takes its time to start.
type slowStart struct{}

func (slowStart) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "relay_test_slow", New: func() caddy.Module { return new(slowStart) }}
}

func (slowStart) Start() error { time.Sleep(20 * time.Millisecond); return nil }
func (slowStart) Stop() error  { return nil }

// An event that a first client sets off while Caddy still starts its apps, one
// of which is that of the subscribers, waits for them.
func TestEventsWhileCaddyStarts(t *testing.T) {
	for range 20 { // apps start in any order
		listen(t, nil)
		at, dead := freeAddr(t), freeAddr(t)
		stop := make(chan struct{})
		var impatient sync.WaitGroup
		impatient.Go(func() { knock(at, stop) })
		s := startBeside(t, `"relay_test_slow":{}`, subscribed, block("TCP/"+at, dead+" {\n name told\n }"))
		_, told := hear(t, 2)
		close(stop)
		impatient.Wait()
		if want := fmt.Sprintf("[backend_failed %s all_backends_unavailable]", portOf(dead)); fmt.Sprint(told) != want {
			t.Errorf("told of %v, want %s", told, want)
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	}
}
