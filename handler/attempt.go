package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// watchEvery is the interval of the checks whether a client that waits for a
// backend has left and, on an event loop, whether the backend was demoted.
const watchEvery = 100 * time.Millisecond

var (
	errClientGone = errors.New("client left before a backend answered")
	errNoBackend  = errors.New("no backend accepts new clients")
	errSuperseded = errors.New("another backend was faster")
	errPanic      = errors.New("panic")

	errConnectTimeout = errors.New("connect timeout")
)

// attempts is the search of one TCP client for a backend. Its fields belong to the
// goroutine of run, and after that to the judge of a slow backend, if there is one.
// Each attempt is a goroutine of its own, which ends with its result or with ctx.
type attempts struct {
	relay *Relay
	of    *tcpRelay
	trial *stream.Trial // tries each connection; nil: the first connection serves
	tried int           // connections that failed their trial
	drill *drill        // whose fault the client has met; nil: none
	walk  upstream.Walk

	ctx       context.Context         // of all attempts
	cancel    context.CancelCauseFunc // ends ctx
	current   upstream.Attempt        // that the client waits for; zero if only superseded attempts are running
	companion upstream.Attempt        // hedged: runs in parallel with current; zero: none
	trials    []upstream.Attempt      // with which this client tries suspects
	pending   int                     // running attempts
	results   chan outcome
}

// outcome is the result of an attempt.
type outcome struct {
	attempt upstream.Attempt
	conn    net.Conn
	addr    netip.Addr
	port    uint16 // that was dialled; 0: that of the backend
	tried   []netip.Addr
	since   time.Time // when the first of tried was dialled
	took    time.Duration
	drill   *drill // of the backend; nil: none
	hedged  bool   // it was the companion of another attempt
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
	unused    func()    // closes the connection that dialFirst waits for; nil: there is none, or dialFirst was called
	slow      bool      // the connection was not established at once
}

// startedAttempts are attempts that nothing refers to any more: most clients have one, for the
// time of a connect.
var startedAttempts = sync.Pool{New: func() any { return new(startedAttempt) }}

// free makes the attempt available to another client. Nothing may refer to it any more.
func (a *startedAttempt) free() {
	*a = startedAttempt{}
	startedAttempts.Put(a)
}

// parallel returns when the attempt loop has to do something in parallel with the
// connection to the first address, or to end it.
func (a *startedAttempt) parallel(opts *Options) time.Time {
	after := opts.ConnectTimeout
	if opts.Hedge > 0 {
		after = min(after, opts.Hedge)
	}
	due := a.attempt.Began.Add(after)
	if n := len(a.addrs); n > 1 {
		timeout := a.attempt.Began.Add(opts.ConnectTimeout).Sub(a.since)
		if next := a.since.Add(dial.Delay(timeout, n)); next.Before(due) {
			due = next
		}
	}
	return due
}

// end is called at the end of the attempt. A drill or a limit may have failed it
// before dialFirst was called.
func (a *startedAttempt) end() {
	if a.unused != nil {
		a.unused()
	}
}

// newAttempts returns a search on the given walk. The end of a client's context
// ends run, and run's caller ends the attempts: one of them may outlive the client.
func (r *Relay) newAttempts(ctx context.Context, of *tcpRelay, walk upstream.Walk) *attempts {
	t := &attempts{relay: r, of: of, walk: walk, results: make(chan outcome)}
	t.trial, _ = of.mover.(*stream.Trial)
	t.ctx, t.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return t
}

// connect tries the backends of a walk until one accepts the client. It returns an
// error after all of them were tried. It continues an attempt that was started, with
// the walk of that, unless from is nil. gone reports whether the client has left meanwhile.
func (r *Relay) connect(ctx context.Context, of *tcpRelay, walk upstream.Walk, from *startedAttempt, gone func() bool) (outcome, error) {
	var t *attempts
	if from != nil {
		t = r.newAttempts(ctx, of, from.walk)
		t.current = from.attempt
		t.start(from.attempt, query{}, from)
	} else {
		t = r.newAttempts(ctx, of, walk)
		t.next()
	}
	ended := true // also after a panic
	defer func() {
		if ended {
			t.cancel(errSuperseded)
			t.endTrials()
		}
	}()
	o, err := t.run(ctx, gone)
	ended = err != nil || !t.judgeSlow(o)
	return o, err
}

// run waits for the results of attempts, and starts those that follow them.
func (t *attempts) run(ctx context.Context, gone func() bool) (outcome, error) {
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	hedge := t.newHedgeTimer()
	defer hedge.Stop()
	last := errNoBackend
	for t.pending > 0 {
		select {
		case o := <-t.results:
			t.pending--
			if o.err == nil {
				t.of.countSameHost(o.at())
				o = t.try(ctx, o)
			}
			t.noteDrill(o)
			if o.hedged = o.attempt == t.companion; o.hedged && o.err == nil {
				t.noteOvertaken()
			}
			t.of.note(o)
			if o.err == nil {
				t.relay.recordSuccess(&t.walk, o, upstream.TCP, t.of.client, time.Now(), false)
				return o, nil
			}
			last = fmt.Errorf("backend %s: %w", o.attempt.Backend.Text, o.err)
			if ended, err := t.trialEnded(ctx, o); ended {
				return outcome{}, err
			}
			if !o.hedged && (errors.Is(o.err, errPanic) || dial.Class(o.err) == netio.Exhausted) {
				t.exhausted(o)
				return outcome{}, last // the dial to another backend would fail in the same way
			}
			before := t.current
			t.failed(o)
			if t.current != before {
				t.resetHedgeTimer(hedge)
			} else if o.hedged {
				t.replaceCompanion()
			}
		case <-t.current.Demoted():
			// By failures of other clients: do not wait for this client's own.
			t.walk.Exhaust(t.current.Backend)
			t.next()
			t.resetHedgeTimer(hedge)
		case <-t.companion.Demoted():
			t.walk.Exhaust(t.companion.Backend)
			t.companion = upstream.Attempt{}
			t.replaceCompanion()
		case <-hedge.C:
			t.hedgeTimerFired(hedge)
		case <-watch.C:
			if gone() {
				return outcome{}, errClientGone
			}
		case <-ctx.Done():
			return outcome{}, context.Cause(ctx)
		}
	}
	return outcome{}, allTriedError{last, t.drill}
}

// exhausted records an attempt for which this machine lacked something.
func (t *attempts) exhausted(o outcome) {
	if dial.Class(o.err) == netio.Exhausted {
		t.relay.service.attemptFailedLocally(&t.walk, o, upstream.TCP, t.of.client)
	}
}

// allTriedError is the error of a client that every backend was tried for. It has
// the text of the last failure.
type allTriedError struct {
	error
	drill *drill // whose fault the client has met; nil: none
}

// Unwrap returns the last failure.
func (e allTriedError) Unwrap() error { return e.error }

// next makes the client wait for its companion attempt, or for a new attempt on the
// next backend if there is one.
func (t *attempts) next() {
	if t.companion.Backend != nil {
		t.current, t.companion = t.companion, upstream.Attempt{}
		return
	}
	var ok bool
	if t.current, ok = t.walk.Next(time.Now()); ok {
		t.start(t.current, query{}, nil)
	}
}

// start starts an attempt.
func (t *attempts) start(a upstream.Attempt, q query, from *startedAttempt) {
	t.pending++
	t.beginTrial(a)
	if d := t.relay.service.drills.of(a.Backend); d != nil {
		t.drill = d
	}
	go func() { // ends with its attempt or with ctx
		o := t.attempt(t.ctx, a, q, from)
		select {
		case t.results <- o:
		case <-t.ctx.Done(): // the client is served or has left
			if o.conn != nil {
				_ = o.conn.Close()
			}
		}
	}()
}

// failed records a failed attempt and starts the one that follows it.
func (t *attempts) failed(o outcome) {
	again, q, retry := t.retry(o)
	switch o.attempt {
	case t.current:
		if retry {
			t.current = again
		} else {
			t.next()
		}
	case t.companion: // the next companion starts when the hedge timer fires; see replaceCompanion
		t.companion = again
	default: // superseded: the client already waits for another backend
		return
	}
	if retry {
		t.start(again, q, nil)
	}
}

// retry records a failed attempt. It begins the second attempt on the same backend,
// if the client has one left there, or else marks the backend as exhausted.
func (t *attempts) retry(o outcome) (again upstream.Attempt, q query, ok bool) {
	verdict, _ := t.relay.recordFailure(&t.walk, o, upstream.TCP, t.of.client)
	if verdict != upstream.Next {
		if again, ok = t.walk.Again(o.attempt, time.Now()); ok {
			return again, o.again(verdict), true
		}
	}
	t.walk.Exhaust(o.attempt.Backend)
	return upstream.Attempt{}, query{}, false
}

// attempt makes one attempt on one backend: a lookup, and a dial to its addresses.
func (t *attempts) attempt(ctx context.Context, a upstream.Attempt, q query, from *startedAttempt) (o outcome) {
	r := t.relay
	o = outcome{attempt: a}
	defer func() {
		o.took = time.Since(a.Began)
		if p := recover(); p != nil {
			o.err = fmt.Errorf("%w: %v", errPanic, p)
			r.panicked(upstream.TCP, t.of.client.String(), p)
		}
	}()
	if from != nil {
		defer from.end()
	}
	ctx, cancel := context.WithDeadlineCause(ctx, a.Began.Add(r.opts.ConnectTimeout), errConnectTimeout)
	defer cancel()
	o.drill = r.service.drills.of(a.Backend)
	if o.err = o.drill.delay(ctx); o.err != nil {
		return o
	}
	var first dial.Func
	if from == nil {
		o.tried, o.err = r.resolve(ctx, a.Backend, upstream.TCP, q)
		o.since = time.Now()
	} else {
		o.tried, o.since, first = from.addrs, from.since, from.dialFirst
	}
	if o.port = t.of.portOf(a.Backend); o.err == nil && o.port == 0 {
		o.err = errNoClientPort
	}
	if o.err == nil {
		d := t.dialer(o.port)
		if from != nil {
			d.Since = from.since
		}
		o.conn, o.addr, o.err = d.Any(ctx, o.tried, o.port, first)
	}
	return o
}
