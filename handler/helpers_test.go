package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// resolverCall is one call of a [fakeResolver].
type resolverCall struct {
	method   string // "lookup" or "refresh"
	host     string
	at       time.Time
	since    time.Time // set by Refresh only
	patience time.Duration
}

// answer returns the result of a [fakeResolver] for one host.
type answer func(ctx context.Context, call resolverCall) ([]netip.Addr, error)

var errNoSuchHost = errors.New("no such host")

// fakeResolver implements [Resolver] with the answers that a test sets. It records
// its calls.
type fakeResolver struct {
	mu     sync.Mutex
	hosts  map[string]answer
	cached map[string][]netip.Addr
	calls  []resolverCall
}

func newFakeResolver() *fakeResolver {
	return &fakeResolver{hosts: make(map[string]answer), cached: make(map[string][]netip.Addr)}
}

// set sets the answer of a host for all later calls.
func (r *fakeResolver) set(host string, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[host] = a
	delete(r.cached, host)
}

// setCached sets the addresses of a host. Cached returns them too.
func (r *fakeResolver) setCached(host string, list ...string) {
	r.set(host, addrsAnswer(list...))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cached[host] = addrsOf(list...)
}

// Cached implements [Resolver].
func (r *fakeResolver) Cached(host string) ([]netip.Addr, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	addrs, ok := r.cached[host]
	return addrs, ok
}

// Lookup implements [Resolver].
func (r *fakeResolver) Lookup(ctx context.Context, host string, patience time.Duration) ([]netip.Addr, error) {
	return r.answer(ctx, resolverCall{method: "lookup", host: host, patience: patience})
}

// Refresh implements [Resolver].
func (r *fakeResolver) Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) ([]netip.Addr, error) {
	return r.answer(ctx, resolverCall{method: "refresh", host: host, since: since, patience: patience})
}

func (r *fakeResolver) answer(ctx context.Context, call resolverCall) ([]netip.Addr, error) {
	call.at = time.Now()
	r.mu.Lock()
	r.calls = append(r.calls, call)
	a := r.hosts[call.host]
	r.mu.Unlock()
	if a == nil {
		return nil, errNoSuchHost
	}
	return a(ctx, call)
}

// callsFor returns the calls for a host so far.
func (r *fakeResolver) callsFor(host string) []resolverCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.calls), func(call resolverCall) bool { return call.host != host })
}

// addrsAnswer always returns the same addresses.
func addrsAnswer(list ...string) answer {
	addrs := addrsOf(list...)
	return func(context.Context, resolverCall) ([]netip.Addr, error) { return addrs, nil }
}

// answerUntilRefresh answers with before until the first refresh, and with after
// from then on.
func answerUntilRefresh(before, after answer) answer {
	var mu sync.Mutex
	refreshed := false
	return func(ctx context.Context, call resolverCall) ([]netip.Addr, error) {
		mu.Lock()
		refreshed = refreshed || call.method == "refresh"
		a := before
		if refreshed {
			a = after
		}
		mu.Unlock()
		return a(ctx, call)
	}
}

// errorAnswer always returns err.
func errorAnswer(err error) answer {
	return func(context.Context, resolverCall) ([]netip.Addr, error) { return nil, err }
}

// hangAnswer returns when the context ends, with its cause.
func hangAnswer(ctx context.Context, _ resolverCall) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// panicAnswer panics.
func panicAnswer(context.Context, resolverCall) ([]netip.Addr, error) { panic("resolver panics") }

func addrsOf(list ...string) []netip.Addr {
	addrs := make([]netip.Addr, len(list))
	for i, text := range list {
		addrs[i] = netip.MustParseAddr(text)
	}
	return addrs
}

// rig is a relay under test, with its service, a fake resolver and its log.
type rig struct {
	t        testing.TB
	service  *Service
	relay    *Relay
	resolver *fakeResolver
	logs     *observer.ObservedLogs
}

// newRig returns a relay for backends, each of which is "host:port" or "ip:port".
// Tests must not reach its timeouts; edit changes the options.
func newRig(t testing.TB, backends []string, edit ...func(*Options)) *rig {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	r := &rig{t: t, resolver: newFakeResolver(), logs: logs}
	opts := Options{
		ConnectTimeout: relaytest.Limit,
		IdleTimeout:    relaytest.Limit,
		Resolver:       r.resolver,
		UDP:            dgram.NewEngine(netio.NewProcessorBudget()),
		TCP:            stream.NewEngine(netio.NewProcessorBudget()),
		Log:            zap.New(core),
	}
	for _, f := range edit {
		f(&opts)
	}
	r.service = NewService("test", upstream.NewPool(backendAddresses(t, backends...), 0, time.Now()), nil, NewSessionBudget(netio.SessionLimit(), opts.UDP))
	r.relay = New(r.service, opts)
	t.Cleanup(func() {
		r.service.Close()
		stopWhenIdle(opts.UDP)
		stopWhenIdle(opts.TCP)
	})
	return r
}

// stopWhenIdle makes the event loops of an engine stop as soon as they are idle,
// so that [relaytest.NoLeaks] does not wait for their linger time.
func stopWhenIdle(engine any) {
	if e, ok := engine.(interface{ StopWhenIdle() }); ok {
		e.StopWhenIdle()
	}
}

// soon is a timeout that tests wait for. What must happen before it has this much
// time on a busy machine.
const soon = 1500 * time.Millisecond

// backendAddresses parses backends as a configuration does.
func backendAddresses(t testing.TB, texts ...string) []upstream.Address {
	t.Helper()
	var list []upstream.Address
	for _, text := range texts {
		host, port, err := net.SplitHostPort(text)
		relaytest.Check(t, err)
		number, err := net.LookupPort("tcp", port)
		relaytest.Check(t, err)
		ip, _ := netip.ParseAddr(host) // invalid for a name
		list = append(list, upstream.Address{Text: text, Host: host, Port: uint16(number), IP: ip})
	}
	return list
}

// lines returns the log lines with a message so far.
func (r *rig) lines(message string) []observer.LoggedEntry {
	return r.logs.FilterMessage(message).All()
}

// line waits for the only log line with a message.
func (r *rig) line(message string) observer.LoggedEntry {
	r.t.Helper()
	relaytest.Eventually(r.t, fmt.Sprintf("a log line %q", message), func() bool { return len(r.lines(message)) > 0 })
	lines := r.lines(message)
	if len(lines) > 1 {
		r.t.Fatalf("%d lines %q, want one:\n%s", len(lines), message, r.transcript())
	}
	return lines[0]
}

// wantLines checks how often messages were logged, as in
// wantLines("client refused", 2, "backend recovered", 0).
func (r *rig) wantLines(pairs ...any) {
	r.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := len(r.lines(pairs[i].(string))); got != pairs[i+1].(int) {
			r.t.Errorf("%d lines %q, want %d:\n%s", got, pairs[i], pairs[i+1], r.transcript())
		}
	}
}

// transcript returns the whole log, for failure messages.
func (r *rig) transcript() string {
	var b strings.Builder
	for _, e := range r.logs.All() {
		fmt.Fprintf(&b, "%s %s %v\n", e.Level, e.Message, e.ContextMap())
	}
	return b.String()
}

// status returns the status of a backend on a network.
func (r *rig) status(backend string, n upstream.Network) upstream.NetworkStatus {
	r.t.Helper()
	for _, s := range r.service.Pool.Snapshot(time.Now()) {
		if s.Backend.Text == backend {
			return s.Networks[n]
		}
	}
	r.t.Fatalf("no backend %s", backend)
	panic("unreachable")
}

// demote demotes a backend, as the failures of other clients do.
func (r *rig) demote(backend string, n upstream.Network) {
	r.t.Helper()
	probe := r.service.Pool.Probe(r.service.Pool.Backend(backend), n, upstream.Listens)
	a, _ := probe.Next(time.Now())
	probe.Failed(a, time.Now(), errNoSuchHost)
	a, _ = probe.Again(a, time.Now())
	if _, change := probe.Failed(a, time.Now(), errNoSuchHost); !change.Demoted {
		r.t.Fatalf("%s was not demoted", backend)
	}
}
