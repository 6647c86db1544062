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

// watchEvery is the interval of the checks whether a client that waits for a
// backend has left.
const watchEvery = 100 * time.Millisecond

var (
	errClientGone = errors.New("client left before a backend answered")
	errNoBackend  = errors.New("no backend accepts new clients")
	errSuperseded = errors.New("another backend was faster")
	errPanic      = errors.New("panic")

	errConnectTimeout = errors.New("connect timeout")
)

// attempts is the search of one TCP client for a backend. Its fields belong to the
// goroutine of run. Each attempt is a goroutine of its own, which ends with its
// result or with the client's context.
type attempts struct {
	relay  *Relay
	client fmt.Stringer
	note   func(outcome) // receives each outcome
	walk   upstream.Walk

	current upstream.Attempt // that the client waits for; zero if only superseded attempts are running
	pending int              // running attempts
	results chan outcome
}

// outcome is the result of an attempt.
type outcome struct {
	attempt upstream.Attempt
	conn    net.Conn
	addr    netip.Addr
	tried   []netip.Addr
	since   time.Time // when the first of tried was dialled
	took    time.Duration
	err     error
}

// again returns the query of the attempt that follows this one.
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
				return outcome{}, last // the dial to another backend would fail in the same way
			}
			t.failed(ctx, o)
		case <-t.current.Demoted():
			// By failures of other clients: do not wait for this client's own.
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

// next starts an attempt on the next backend, if there is one.
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
	go func() { // ends with its attempt or with ctx
		o := t.attempt(ctx, a, q, from)
		select {
		case t.results <- o:
		case <-ctx.Done(): // the client is served or has left
			if o.conn != nil {
				_ = o.conn.Close()
			}
		}
	}()
}

// failed starts the attempt that follows a failed one.
func (t *attempts) failed(ctx context.Context, o outcome) {
	verdict, _ := t.relay.recordFailure(&t.walk, o, upstream.TCP, t.client)
	if o.attempt != t.current {
		return // the client already waits for another backend
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

// attempt makes one attempt on one backend: a lookup, and a dial to its addresses.
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
	var first dial.Func
	if from == nil {
		o.tried, o.err = r.resolve(ctx, a.Backend, upstream.TCP, q)
		o.since = time.Now()
	} else {
		o.tried, o.since, first = from.addrs, from.since, from.dialFirst
	}
	if o.err == nil {
		o.conn, o.addr, o.err = r.dialer().Any(ctx, o.tried, a.Backend.Port, first)
	}
	return o
}
