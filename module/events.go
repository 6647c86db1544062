package module

import (
	"context"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/hook"
)

// hooks runs the event hooks of all services.
var hooks = hook.New(hook.Limits{})

// emitter emits the Caddy events of all services.
var emitter eventQueue

// onEvent passes an event of the service on to the event hook and to the
// subscribers. It does not block: the caller may be any goroutine and may hold a
// session's lock.
func (s *service) onEvent(e handler.Event) {
	if e.Type == handler.BackendFailed {
		s.refreshTargets()
	}
	fleetChanged()
	if !s.early.keep(e) {
		s.passOn(e)
	}
}

// passOn does the work of onEvent for an event that is not kept.
func (s *service) passOn(e handler.Event) {
	current := s.current.Load()
	if current == nil {
		return // no config has the service any more
	}
	if current.hook != nil {
		hooks.Run(*current.hook, hookEvent(s.Name, e))
	}
	if !emitter.put(func() { s.emit(e) }) {
		s.dropped.Log(current.log, zapcore.ErrorLevel, "event dropped: subscribers too slow", 1,
			zap.String("service", s.Name), zap.String("event", string(e.Type)))
	}
}

// earlyEvents keeps the events from before the first settings of a service are
// current: layer4 may serve clients while Caddy still starts other apps.
type earlyEvents struct {
	mu     sync.Mutex // guards the fields below
	events []handler.Event
	taken  bool // the first settings became current
}

// keep stores e. It reports false if the events were taken already.
func (l *earlyEvents) keep(e handler.Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.taken && len(l.events) < maxQueuedEvents {
		l.events = append(l.events, e)
	}
	return !l.taken
}

// take calls pass for each stored event. Only the first call finds any. An event
// that comes meanwhile waits in keep, so it does not overtake them.
func (l *earlyEvents) take(pass func(handler.Event)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		pass(e)
	}
	l.events, l.taken = nil, true
}

// startPollInterval is how often emit checks whether Caddy has started, or has cleaned up a
// config that has ended.
const startPollInterval = 10 * time.Millisecond

// emit emits an event in the current config, which may be a later one than that
// of the event: Caddy emits no event in a config that has ended. While Caddy
// starts or ends a config, emit waits, because the subscribers' app may not have started. It
// drops the event if no config has the service any more. If the config ends meanwhile, the
// subscribers of the next config get the event, too: a subscriber may get it again, but it is
// not lost.
func (s *service) emit(e handler.Event) {
	for range maxEmissions {
		if !s.emitOnce(e) {
			return
		}
	}
}

// maxEmissions bounds in how many configs an event is emitted: each of them may end while its
// first subscriber takes its time.
const maxEmissions = 3

// emitOnce does the work of emit with one config. It reports whether that has ended, so that
// not all subscribers may have the event.
func (s *service) emitOnce(e handler.Event) (ended bool) {
	current := s.current.Load()
	for ; current != nil && (caddy.ActiveContext().Context == nil || current.ctx.Err() != nil); current = s.current.Load() {
		time.Sleep(startPollInterval)
	}
	if current == nil {
		return false
	}
	ctx := current.ctx
	emitting := &emission{Context: ctx.Context}
	ctx.Context = emitting
	defer func() {
		if p := recover(); p != nil {
			current.log.Error("event subscriber panicked", zap.String("service", s.Name), zap.String("event", string(e.Type)), zap.Any("error", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	current.events.Emit(ctx, string(e.Type), eventData(s.Name, e))
	return emitting.ended.Load()
}

// emission is the context with which an event is emitted. Caddy calls Done before each
// subscriber, and calls none once the config has ended. A subscriber may call Done, too.
type emission struct {
	context.Context
	ended atomic.Bool // the config had ended when Caddy or a subscriber called Done
}

// Done implements context.Context.
func (e *emission) Done() <-chan struct{} {
	if e.Err() != nil {
		e.ended.Store(true)
	}
	return e.Context.Done()
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

// eventData returns the data of a Caddy event, which subscribers see as
// {event.data.*}. The time is text, because a placeholder would show a time.Time
// with its monotonic clock reading.
func eventData(service string, e handler.Event) map[string]any {
	data := map[string]any{
		"service": service, "network": e.Network.String(), "timestamp": hook.Timestamp(e.Time),
		"failure_count": e.Failures, "available_count": e.Available, "total_count": e.Total,
	}
	if e.Drill {
		data["drill"] = true
	}
	if e.Backend != nil {
		data["backend"] = e.Backend.Text
		if e.Address.IsValid() {
			data["address"] = e.Address.String()
			if port := e.Backend.Port; port != 0 { // otherwise it has one for each client
				data["address"] = netip.AddrPortFrom(e.Address, port).String()
			}
		}
	}
	return data
}

// setEvents sets what onEvent and emit need of a config: the event hook and
// Caddy's events app.
func (set *settings) setEvents(ctx caddy.Context, opts caddyfile.Options) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	set.events, set.ctx = app.(*caddyevents.App), ctx
	if h := opts.EventHook; h != nil {
		set.hook = &hook.Config{Command: h.Command, Args: h.Args, Events: h.Events, Timeout: h.Timeout, Log: set.log}
	}
	return nil
}

// maxQueuedEvents is the number of events that may wait for subscribers.
const maxQueuedEvents = 256

// eventQueue runs functions one after the other on its own goroutine, which
// exits when the queue is empty.
type eventQueue struct {
	mu      sync.Mutex // guards the fields below
	waiting []func()
	running bool
}

// put appends f. It reports false if the queue is full.
func (q *eventQueue) put(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= maxQueuedEvents {
		return false
	}
	q.waiting = append(q.waiting, f)
	if !q.running {
		q.running = true
		go q.run() // returns when the queue is empty
	}
	return true
}

func (q *eventQueue) run() {
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
