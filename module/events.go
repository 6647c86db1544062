package module

import (
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/hook"
)

// hooks runs the commands of all services' event hooks.
var hooks = hook.New(hook.Limits{})

// emitter emits the events of all services.
var emitter queue

// happened takes an event of the service, on whatever goroutine met it, and
// with a session's lock held: it waits for nothing.
func (s *service) happened(e handler.Event) {
	g := s.current.Load()
	if g == nil && s.early.keep(e) {
		return
	}
	if g = s.current.Load(); g == nil {
		return // no config has the service any more, and nobody wants to know
	}
	if g.hook != nil {
		hooks.Run(*g.hook, hookEvent(s.Name, e))
	}
	if !emitter.put(func() { s.emit(e) }) {
		g.log.Error("event dropped, those who subscribed to events are too slow", zap.String("service", s.Name), zap.String("event", string(e.Type)))
	}
}

// early keeps the events that come before the first config of a service is in
// force: layer4 may serve clients while Caddy still starts the other apps.
type early struct {
	mu     sync.Mutex // guards what follows
	events []handler.Event
	over   bool // one has been in force
}

// keep says false once a config has been in force.
func (l *early) keep(e handler.Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over && len(l.events) < queued {
		l.events = append(l.events, e)
	}
	return !l.over
}

// take gives what was kept, once.
func (l *early) take() []handler.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := l.events
	l.events, l.over = nil, true
	return events
}

// startCheck is how often an event looks whether Caddy has started.
const startCheck = 10 * time.Millisecond

// emit tells those who subscribed in the config in force, which need not be
// the one that the event is of: Caddy emits none for a config that has ended.
// If it still starts its apps, that of the subscribers is waited for. The
// event goes when no config has the service any more.
func (s *service) emit(e handler.Event) {
	g := s.current.Load()
	for ; g != nil && caddy.ActiveContext().Context == nil; g = s.current.Load() {
		time.Sleep(startCheck)
	}
	if g == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("event subscriber panicked", zap.String("service", s.Name), zap.String("event", string(e.Type)), zap.Any("error", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	g.events.Emit(g.ctx, string(e.Type), eventData(s.Name, e))
}

func hookEvent(service string, e handler.Event) hook.Event {
	h := hook.Event{
		Type: string(e.Type), Service: service, Time: e.Time,
		FailureCount: e.Failures, AvailableCount: e.Available, TotalCount: e.Total,
	}
	if e.Backend != nil {
		h.Backend = &hook.Backend{Host: e.Backend.Host, Port: int(e.Backend.Port)}
		if e.Address.IsValid() {
			h.Backend.IP = e.Address.String()
		}
	}
	return h
}

// eventData is what subscribers find in a Caddy event, as `{event.data.*}`. A
// placeholder would show a time.Time as Go does, with its monotonic reading.
func eventData(service string, e handler.Event) map[string]any {
	data := map[string]any{
		"service": service, "network": e.Network.String(), "timestamp": hook.Timestamp(e.Time),
		"failure_count": e.Failures, "available_count": e.Available, "total_count": e.Total,
	}
	if e.Backend != nil {
		data["backend"] = e.Backend.Text
		if e.Address.IsValid() {
			data["address"] = netip.AddrPortFrom(e.Address, e.Backend.Port).String()
		}
	}
	return data
}

// announced takes from the options and the context what a generation needs to
// tell others of events.
func (g *generation) announced(ctx caddy.Context, opts caddyfile.Options) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	g.events, g.ctx = app.(*caddyevents.App), ctx
	if h := opts.EventHook; h != nil {
		g.hook = &hook.Config{Command: h.Command, Args: h.Args, Events: h.Events, Timeout: h.Timeout, Log: g.log}
	}
	return nil
}

// queued is how many events may wait for their subscribers.
const queued = 256

// queue runs functions one after the other on a goroutine of its own, which
// runs while there are any.
type queue struct {
	mu      sync.Mutex // guards what follows
	waiting []func()
	running bool
}

// put says false if too many wait already.
func (q *queue) put(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= queued {
		return false
	}
	q.waiting = append(q.waiting, f)
	if !q.running {
		q.running = true
		go q.run()
	}
	return true
}

func (q *queue) run() {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		next := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
		next()
	}
}
