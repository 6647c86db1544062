package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// watchEvery is how often a client that waits for its backend is asked
// whether it is still there.
const watchEvery = 100 * time.Millisecond

var (
	errClientGone = errors.New("client left before a backend answered")
	errNoBackend  = errors.New("no backend takes new clients")
	errSuperseded = errors.New("another backend was faster")
	errPanic      = errors.New("panic")

	errConnectTimeout = errors.New("connect timeout")
)

// attempts is one TCP client's way to a backend. Its fields belong to the
// goroutine of run; each attempt under way is a goroutine of its own, which
// ends when it is decided or the client's context ends.
type attempts struct {
	relay  *Relay
	client fmt.Stringer
	note   func(outcome) // is told of all that counts
	walk   upstream.Walk

	current upstream.Attempt // the one the client waits on; zero when only superseded ones are left
	pending int              // attempts under way
	results chan outcome
}

// outcome is what came of an attempt.
type outcome struct {
	attempt upstream.Attempt
	conn    net.Conn
	addr    netip.Addr
	tried   []netip.Addr
	since   time.Time // when it began to try them
	took    time.Duration
	err     error
}

// again is what the attempt after this one asks the resolver.
func (o outcome) again(verdict upstream.Verdict) query {
	q := query{how: afresh, tried: o.tried, since: o.since}
	if verdict == upstream.RetryIfChanged {
		q.how = ifChanged
	}
	return q
}

// startedAttempt is a first attempt on cached addresses, the first of which an
// event loop has dialled.
type startedAttempt struct {
	ctx       context.Context // ends the search for a backend
	walk      upstream.Walk
	attempt   upstream.Attempt
	addrs     []netip.Addr
	since     time.Time
	dialFirst dial.Func // returns the result for the first address
}

// connect tries backends until one accepts the client. It returns an error after
// all of them were tried. It continues an attempt that was started, unless from is
// nil. gone reports whether the client has left meanwhile.
func (r *Relay) connect(ctx context.Context, of *tcpRelay, from *startedAttempt, gone func() bool) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errSuperseded)
	t := &attempts{relay: r, client: of.client, note: of.note, results: make(chan outcome)}
	if from != nil {
		t.walk = from.walk
		t.start(ctx, from.attempt, query{}, from)
	} else {
		t.walk = r.service.Pool.Walk(upstream.TCP)
		t.next(ctx)
	}
	return t.run(ctx, gone)
}

func (t *attempts) run(ctx context.Context, gone func() bool) (outcome, error) {
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	last := errNoBackend
	for t.pending > 0 {
		select {
		case o := <-t.results:
			t.pending--
			t.note(o)
			if o.err == nil {
				t.relay.recordSuccess(&t.walk, o, upstream.TCP, t.client, time.Now(), false)
				return o, nil
			}
			last = fmt.Errorf("backend %s: %w", o.attempt.Backend.Text, o.err)
			if errors.Is(o.err, errPanic) || dial.Class(o.err) == netio.Exhausted {
				return outcome{}, last // another backend needs a descriptor too
			}
			t.failed(ctx, o)
		case <-t.current.Demoted():
			// By another client's failures: no use to wait here for our own.
			t.walk.Exhaust(t.current.Backend)
			t.next(ctx)
		case <-watch.C:
			if gone() {
				return outcome{}, errClientGone
			}
		case <-ctx.Done():
			return outcome{}, context.Cause(ctx)
		}
	}
	return outcome{}, last
}

// next goes on to the next backend, if there is one.
func (t *attempts) next(ctx context.Context) {
	attempt, ok := t.walk.Next(time.Now())
	if !ok {
		t.current = upstream.Attempt{}
		return
	}
	t.start(ctx, attempt, query{}, nil)
}

func (t *attempts) start(ctx context.Context, a upstream.Attempt, q query, from *startedAttempt) {
	t.current = a
	t.pending++
	go func() { // waits on the network for one attempt; ends with it or with ctx
		o := t.attempt(ctx, a, q, from)
		select {
		case t.results <- o:
		case <-ctx.Done(): // the client is served or gone
			if o.conn != nil {
				_ = o.conn.Close()
			}
		}
	}()
}

// failed goes on after an attempt that failed.
func (t *attempts) failed(ctx context.Context, o outcome) {
	verdict, _ := t.relay.recordFailure(&t.walk, o, upstream.TCP, t.client)
	if o.attempt != t.current {
		return // the client waits on another backend already
	}
	if verdict != upstream.Next {
		if again, ok := t.walk.Again(o.attempt, time.Now()); ok {
			t.start(ctx, again, o.again(verdict), nil)
			return
		}
		t.walk.Exhaust(o.attempt.Backend)
	}
	t.next(ctx)
}

// attempt is one try of one backend: lookup, and a dial to all its addresses.
func (t *attempts) attempt(ctx context.Context, a upstream.Attempt, q query, from *startedAttempt) (o outcome) {
	r := t.relay
	o = outcome{attempt: a}
	defer func() {
		o.took = time.Since(a.Began)
		if p := recover(); p != nil {
			o.err = fmt.Errorf("%w: %v", errPanic, p)
			r.panicked(upstream.TCP, t.client.String(), p)
		}
	}()
	ctx, cancel := context.WithDeadlineCause(ctx, a.Began.Add(r.opts.ConnectTimeout), errConnectTimeout)
	defer cancel()
	first := dial.Func(dial.One)
	if from == nil {
		o.tried, o.err = r.resolve(ctx, a.Backend, upstream.TCP, q)
		o.since = time.Now()
	} else {
		o.tried, o.since, first = from.addrs, from.since, from.dialFirst
	}
	if o.err == nil {
		o.conn, o.addr, o.err = dial.Any(ctx, o.tried, a.Backend.Port, first)
	}
	return o
}
