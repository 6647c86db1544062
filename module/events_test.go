package module_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// listener subscribes to Caddy's events and keeps them in received.
type listener struct {
	Panics bool `json:"panics,omitempty"`
}

// received holds the events of all listeners.
var received struct {
	mu     sync.Mutex // guards the fields below
	events []caddy.Event
	gate   chan struct{} // listeners wait for its end; nil: they do not wait
}

func init() {
	caddy.RegisterModule(listener{})
	caddy.RegisterModule(slowStart{})
	caddy.RegisterModule(slowEnd{})
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
	received.mu.Lock()
	received.events = append(received.events, e)
	gate := received.gate
	received.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if l.Panics {
		panic("a subscriber's fault")
	}
	return nil
}

// subscribed is a global option that subscribes to the relay's events.
const subscribed = `events {
	on backend_failed relay_test
	on backend_recovered relay_test
	on all_backends_unavailable relay_test
}`

// resetReceived drops the received events. If gate is not nil, listeners block
// until it is closed.
func resetReceived(t *testing.T, gate chan struct{}) {
	set := func(gate chan struct{}) {
		received.mu.Lock()
		defer received.mu.Unlock()
		received.events, received.gate = nil, gate
	}
	set(gate)
	t.Cleanup(func() { set(nil) })
}

// holdListeners drops the received events and makes listeners wait until open is called,
// or the test ends.
func holdListeners(t *testing.T) (open func()) {
	gate := make(chan struct{})
	resetReceived(t, gate)
	open = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	return open
}

// receiveEvents waits for n events. It returns all of them, and the name and port
// of each.
func receiveEvents(t *testing.T, n int) (events []caddy.Event, texts []string) {
	t.Helper()
	relaytest.Eventually(t, fmt.Sprintf("%d events", n), func() bool {
		received.mu.Lock()
		defer received.mu.Unlock()
		events = append(events[:0], received.events...)
		return len(events) >= n
	})
	for _, e := range events {
		name := e.Name()
		if backend, ok := e.Data["backend"].(string); ok {
			name += " " + portOf(backend)
		}
		texts = append(texts, name)
	}
	return events, texts
}

// Subscribers receive the same events as event hooks.
func TestSubscribersReceiveEvents(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		resetReceived(t, nil)
		a, b, at, r := newMortal(t), newMortal(t), freeAddr(t), record(t, "")
		startWith(t, subscribed, block("TCP/"+at, fmt.Sprintf("%s %s {\n name subscribed\n %s\n }", a.addr, b.addr, r.hook)))
		want := fmt.Sprint(twoOutages(t, at, a, b))
		events, texts := receiveEvents(t, 7)
		if got := fmt.Sprint(texts); got != want {
			t.Fatalf("received\n%s, want\n%s", got, want)
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
			if e.Data["service"] != "subscribed" || e.Data["network"] != "tcp" || e.Data["address"] != e.Data["backend"] {
				t.Errorf("event %d: %v", i, e.Data)
			}
			if origin := e.Origin(); origin == nil || origin.CaddyModule().ID != "layer4.handlers.relay" {
				t.Errorf("event %d: origin %v", i, origin)
			}
		}
	})
}

// A blocking subscriber delays no client. When it continues, it receives the
// events in order, also those of a config that has ended in the meantime.
func TestSubscriberThatBlocks(t *testing.T) {
	open := holdListeners(t)
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	config := func(idle string) string {
		return block("TCP/"+at, fmt.Sprintf("%s %s {\n name subscribed\n idle_timeout %s\n }", a.addr, b.addr, idle))
	}
	s := startWith(t, subscribed, config("1m"))
	want := fmt.Sprint(twoOutages(t, at, a, b))
	if _, texts := receiveEvents(t, 1); len(texts) != 1 {
		t.Errorf("the subscriber did not block: %v", texts)
	}
	s.mustReload(config("2m"))
	s.mustReload(config("3m"))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("after the reloads: got %q", got)
	}
	open()
	if _, texts := receiveEvents(t, 7); fmt.Sprint(texts) != want {
		t.Errorf("received\n%s, want\n%s", texts, want)
	}
}

// The queue of a subscriber that blocks for ever is bounded, and dropped events
// are logged.
func TestSubscriberThatIsStuck(t *testing.T) {
	open := holdListeners(t)
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	s := startWith(t, subscribed, block("TCP/"+at, fmt.Sprintf("%s %s {\n name subscribed\n }", a.addr, b.addr)))
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
	if _, texts := receiveEvents(t, 1+waited); len(texts) != 1+waited {
		t.Errorf("%d events, want the blocked one and %d queued ones", len(texts), waited)
	}
}

// A panic of a subscriber is logged and affects nothing else.
func TestSubscriberThatPanics(t *testing.T) {
	resetReceived(t, nil)
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	s := startWith(t, "events {\n on backend_failed relay_test panics\n on all_backends_unavailable relay_test\n }",
		block("TCP/"+at, fmt.Sprintf("%s %s {\n name subscribed\n }", a.addr, b.addr)))
	twoOutages(t, at, a, b)
	receiveEvents(t, 5)
	relaytest.Eventually(t, "the panics to be logged", func() bool { return len(s.lines("event subscriber panicked")) == 3 })
}

// slowStart is an app that starts slowly.
type slowStart struct{}

func (slowStart) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "relay_test_slow", New: func() caddy.Module { return new(slowStart) }}
}

func (slowStart) Start() error { time.Sleep(20 * time.Millisecond); return nil }
func (slowStart) Stop() error  { return nil }

// An event that a client causes while Caddy still starts its apps waits until the
// subscribers' app has started.
func TestEventsWhileCaddyStarts(t *testing.T) {
	for range 20 { // apps start in any order
		resetReceived(t, nil)
		at, dead := freeAddr(t), freeAddr(t)
		stop := make(chan struct{})
		var knocking sync.WaitGroup
		knocking.Go(func() { knock(at, stop) })
		s := startWithApps(t, `"relay_test_slow":{}`, subscribed, block("TCP/"+at, dead+" {\n name subscribed\n }"))
		_, texts := receiveEvents(t, 2)
		close(stop)
		knocking.Wait()
		if want := fmt.Sprintf("[backend_failed %s all_backends_unavailable]", portOf(dead)); fmt.Sprint(texts) != want {
			t.Errorf("received %v, want %s", texts, want)
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// If a config ends before all of its subscribers have an event, those of the next config get
// it.
func TestEventWhoseConfigEnds(t *testing.T) {
	open := holdListeners(t)
	at, dead := freeAddr(t), freeAddr(t)
	service := serviceAt(at)
	config := func(more string) string { return block("TCP/"+at, dead+" {\n name "+service+"\n "+more+"\n }") }
	s := startWith(t, "events {\n on backend_failed relay_test\n on backend_failed relay_test\n }", config(""))
	turnedAway(t, at)
	receiveEvents(t, 1) // by the first subscriber, which has not returned yet
	s.mustReload(config("cooldown 1s"))
	open()
	receiveEvents(t, 3) // by both subscribers of the other config
}

// slowEnd is an app that is cleaned up slowly. It calls the function in atCleanup before.
type slowEnd struct{ slowStart }

var atCleanup atomic.Pointer[func()]

func (slowEnd) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "relay_test_slow_end", New: func() caddy.Module { return new(slowEnd) }}
}

func (slowEnd) Cleanup() error {
	if before := atCleanup.Load(); before != nil {
		(*before)()
	}
	time.Sleep(50 * time.Millisecond)
	return nil
}

// An event of a service that a reload removes is dropped when Caddy has cleaned up the config.
// Until then, it is not emitted again and again.
func TestEventOfARemovedService(t *testing.T) {
	for range 10 { // Caddy cleans up in any order
		open := holdListeners(t)
		atCleanup.Store(&open)
		at, dead := freeAddr(t), freeAddr(t)
		log := filepath.Join(t.TempDir(), "events")
		more := fmt.Sprintf("log events {\n include events\n output file %s\n format json\n }\n events {\n on backend_failed relay_test\n on backend_failed relay_test\n }", log)
		named := func(name string) string { return block("TCP/"+at, dead+" {\n name "+name+"\n }") }
		s := startWithApps(t, `"relay_test_slow_end":{}`, more, named(serviceAt(at)))
		turnedAway(t, at)
		receiveEvents(t, 1) // by the first subscriber, which has not returned yet
		s.mustReload(named(serviceAt(at) + "-next"))
		text, err := os.ReadFile(log)
		relaytest.Check(t, err)
		if n := strings.Count(string(text), "event handling stopped"); n > 1 {
			t.Errorf("the event was emitted %d times", n)
		}
		relaytest.Check(t, s.stop())
	}
}
