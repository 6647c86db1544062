package handler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// limit bounds every wait of a test. It is no expectation: a test that needs
// it has failed.
const limit = 30 * time.Second

// eventually polls a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// receiveFrom takes one value of a channel, or the news that it is closed.
func receiveFrom[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(limit):
		t.Fatalf("waited in vain: %s", what)
		panic("unreachable")
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// noLeaks is called first in a test: whatever goroutine began during the test
// must be over at its end. Tests that call it are not parallel.
func noLeaks(t testing.TB) {
	t.Helper()
	before := goroutineStacks()
	t.Cleanup(func() {
		if t.Failed() {
			return // a test cut short leaves things behind
		}
		var left []string
		for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
			left = left[:0]
			for id, stack := range goroutineStacks() {
				if _, old := before[id]; !old {
					left = append(left, stack)
				}
			}
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d goroutines left:\n%s", len(left), strings.Join(left, "\n\n"))
				return
			}
		}
	})
}

// goroutineStacks are the stacks of all goroutines by their ids.
func goroutineStacks() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := make(map[string]string)
	for _, stack := range bytes.Split(buf, []byte("\n\n")) {
		id, _, _ := strings.Cut(string(stack), " [")
		stacks[id] = string(stack)
	}
	return stacks
}

// asked is one call of a [fakeResolver].
type asked struct {
	method   string // "lookup" or "refresh"
	host     string
	at       time.Time
	since    time.Time // of a refresh
	patience time.Duration
}

// answer is a host's script in a [fakeResolver].
type answer func(ctx context.Context, q asked) ([]netip.Addr, error)

var errNoSuchHost = errors.New("no such host")

// fakeResolver answers from a script and keeps what it was asked.
type fakeResolver struct {
	mu     sync.Mutex
	hosts  map[string]answer
	cached map[string][]netip.Addr
	asked  []asked
}

func newFakeResolver() *fakeResolver {
	return &fakeResolver{hosts: make(map[string]answer), cached: make(map[string][]netip.Addr)}
}

// set scripts a host's answer; it holds for the questions from now on.
func (r *fakeResolver) set(host string, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[host] = a
	delete(r.cached, host)
}

// setCached makes a host's answer one that Cached gives too.
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
	return r.answer(ctx, asked{method: "lookup", host: host, patience: patience})
}

// Refresh implements [Resolver].
func (r *fakeResolver) Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) ([]netip.Addr, error) {
	return r.answer(ctx, asked{method: "refresh", host: host, since: since, patience: patience})
}

func (r *fakeResolver) answer(ctx context.Context, q asked) ([]netip.Addr, error) {
	q.at = time.Now()
	r.mu.Lock()
	r.asked = append(r.asked, q)
	a := r.hosts[q.host]
	r.mu.Unlock()
	if a == nil {
		return nil, errNoSuchHost
	}
	return a(ctx, q)
}

// questions are those asked about a host so far.
func (r *fakeResolver) questions(host string) []asked {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.asked), func(q asked) bool { return q.host != host })
}

// addrsAnswer is the same addresses, whatever is asked.
func addrsAnswer(list ...string) answer {
	addrs := addrsOf(list...)
	return func(context.Context, asked) ([]netip.Addr, error) { return addrs, nil }
}

// freshAnswer is one answer until a refresh, and then another.
func freshAnswer(before, after answer) answer {
	var mu sync.Mutex
	refreshed := false
	return func(ctx context.Context, q asked) ([]netip.Addr, error) {
		mu.Lock()
		refreshed = refreshed || q.method == "refresh"
		a := before
		if refreshed {
			a = after
		}
		mu.Unlock()
		return a(ctx, q)
	}
}

// errorAnswer is an error.
func errorAnswer(err error) answer {
	return func(context.Context, asked) ([]netip.Addr, error) { return nil, err }
}

// hangAnswer never comes: the asker's context has to end it.
func hangAnswer(ctx context.Context, _ asked) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// panicAnswer panics.
func panicAnswer(context.Context, asked) ([]netip.Addr, error) { panic("resolver panics") }

func addrsOf(list ...string) []netip.Addr {
	addrs := make([]netip.Addr, len(list))
	for i, text := range list {
		addrs[i] = netip.MustParseAddr(text)
	}
	return addrs
}

// rig is a relay under test with all that stands around it.
type rig struct {
	t        testing.TB
	service  *Service
	relay    *Relay
	resolver *fakeResolver
	logs     *observer.ObservedLogs
}

// newRig makes a relay of backends, "host:port" or "ip:port" each, which logs
// to an observer. Its timeouts are long; edit changes the options.
func newRig(t testing.TB, backends []string, edit ...func(*Options)) *rig {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	r := &rig{t: t, resolver: newFakeResolver(), logs: logs}
	opts := Options{
		ConnectTimeout: limit,
		IdleTimeout:    limit,
		Resolver:       r.resolver,
		UDP:            dgram.NewEngine(),
		TCP:            stream.NewEngine(),
		Log:            zap.New(core),
	}
	for _, f := range edit {
		f(&opts)
	}
	r.service = NewService("test", upstream.NewPool(backendAddresses(t, backends...), 0, time.Now()), nil)
	r.relay = New(r.service, opts)
	t.Cleanup(r.service.Close)
	return r
}

// backendAddresses reads backends as a configuration would.
func backendAddresses(t testing.TB, texts ...string) []upstream.Address {
	t.Helper()
	var list []upstream.Address
	for _, text := range texts {
		host, port, err := net.SplitHostPort(text)
		check(t, err)
		number, err := net.LookupPort("tcp", port)
		check(t, err)
		ip, _ := netip.ParseAddr(host) // invalid for a name
		list = append(list, upstream.Address{Text: text, Host: host, Port: uint16(number), IP: ip})
	}
	return list
}

// lines are the log lines of one message so far.
func (r *rig) lines(message string) []observer.LoggedEntry {
	return r.logs.FilterMessage(message).All()
}

// line waits for the one log line of a message.
func (r *rig) line(message string) observer.LoggedEntry {
	r.t.Helper()
	eventually(r.t, "a line: "+message, func() bool { return len(r.lines(message)) > 0 })
	lines := r.lines(message)
	if len(lines) > 1 {
		r.t.Fatalf("%d lines %q, want one:\n%s", len(lines), message, r.transcript())
	}
	return lines[0]
}

// wantLines checks how often messages were logged: "message" once, or with a
// count as in wantLines("client refused", 2, "backend recovered", 0).
func (r *rig) wantLines(pairs ...any) {
	r.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := len(r.lines(pairs[i].(string))); got != pairs[i+1].(int) {
			r.t.Errorf("%d lines %q, want %d:\n%s", got, pairs[i], pairs[i+1], r.transcript())
		}
	}
}

// transcript is the whole log, to be read by whoever mends a failed test.
func (r *rig) transcript() string {
	var b strings.Builder
	for _, e := range r.logs.All() {
		fmt.Fprintf(&b, "%s %s %v\n", e.Level, e.Message, e.ContextMap())
	}
	return b.String()
}

// status is a backend's state on a network.
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

// demote has a backend demoted, as others' failures would.
func (r *rig) demote(backend string, n upstream.Network) {
	r.t.Helper()
	probe := r.service.Pool.Probe(r.service.Pool.Backend(backend), n)
	a, _ := probe.Next(time.Now())
	probe.Failed(a, time.Now(), errNoSuchHost)
	a, _ = probe.Again(a, time.Now())
	if _, change := probe.Failed(a, time.Now(), errNoSuchHost); !change.Demoted {
		r.t.Fatalf("%s was not demoted", backend)
	}
}
