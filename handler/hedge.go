package handler

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file holds the option hedge: while the attempt that a client waits for has
// no result, the next backend is dialled in parallel, as the companion of that
// attempt. The first of the two to connect serves the client.
//
// Strikes are those of a client without hedge. The attempt that a companion has
// overtaken continues without the client, to its own result: see [judges].

var errOvertaken = errors.New("overtaken by a hedged attempt")

// newHedgeTimer returns a timer that fires when a companion is due. If hedge is off, it
// fires only for suspects.
func (t *attempts) newHedgeTimer() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	t.resetHedgeTimer(timer)
	return timer
}

// resetHedgeTimer sets the timer after the client has begun to wait for another
// attempt.
func (t *attempts) resetHedgeTimer(timer *time.Timer) {
	if after, ok := t.companionAfter(); ok {
		timer.Reset(time.Until(t.current.Began.Add(after)))
	} else {
		timer.Stop() // it was set for a suspect
	}
}

// hedgeTimerFired starts a companion. With hedge it also sets the timer for the one
// that follows if that fails.
func (t *attempts) hedgeTimerFired(timer *time.Timer) {
	t.startCompanion()
	if hedge := t.relay.opts.Hedge; hedge > 0 {
		timer.Reset(hedge)
	}
}

// startCompanion starts an attempt on the next backend in parallel with the
// current one. There is at most one companion at a time.
func (t *attempts) startCompanion() {
	if t.current.Backend == nil || t.companion.Backend != nil {
		return
	}
	attempt, ok := t.walk.Beside(t.current.Backend, time.Now())
	if !ok {
		return
	}
	t.companion = attempt
	t.relay.service.hedges.Add(1)
	t.start(attempt, query{}, nil)
}

// noteOvertaken keeps the attempt that a companion has overtaken for the access
// log.
func (t *attempts) noteOvertaken() {
	t.of.note(outcome{attempt: t.current, err: errOvertaken, took: time.Since(t.current.Began)})
}

// judgeSlow continues the attempt that o, the attempt that serves the client, has
// overtaken. It returns false if there is none, or if it does not have to continue;
// the caller then ends all attempts.
func (t *attempts) judgeSlow(o outcome) bool {
	if !o.hedged || !t.relay.service.judges.enter(t.current.Backend, t.cancel) {
		return false
	}
	t.companion = upstream.Attempt{}
	go t.judge() // ends with the attempts on that backend, or with the service
	return true
}

// judge waits for the result of the current attempt, and repeats the attempt after
// a first strike.
func (t *attempts) judge() {
	r := t.relay
	defer t.endTrials() // without a result
	defer t.cancel(errSuperseded)
	defer r.service.judges.leave(t.current.Backend)
	defer func() {
		if value := recover(); value != nil {
			r.panicked(upstream.TCP, t.of.client.String(), value)
		}
	}()
	for {
		select {
		case o := <-t.results:
			if t.ctx.Err() != nil {
				return // the attempt was ended, which proves nothing about the backend
			}
			again, q, retry := t.judged(o)
			if o.attempt != t.current {
				continue // of a backend that was demoted before
			}
			if !retry {
				return
			}
			t.current = again
			t.start(again, q, nil)
		case <-t.current.Demoted(): // by other clients
			return
		case <-t.ctx.Done():
			return
		}
	}
}

// judged records the result of an attempt without a client, and returns what retry
// does.
func (t *attempts) judged(o outcome) (again upstream.Attempt, q query, retry bool) {
	switch {
	case o.err == nil:
		_ = o.conn.Close()
		if t.trial != nil { // a connection alone proves nothing
			break
		}
		t.relay.recordSuccess(&t.walk, o, upstream.TCP, t.of.client, time.Now(), false)
	case !errors.Is(o.err, errPanic):
		return t.retry(o)
	}
	return upstream.Attempt{}, query{}, false
}

// judges continue attempts on slow backends that a companion has overtaken, until
// they have a result. Without them a silent backend would never get a strike,
// because each of its clients would be served by another backend before
// connect_timeout.
//
// One attempt per backend is enough: failures of attempts that began before the
// latest strike are not counted anyway.
type judges struct {
	mu      sync.Mutex                                    // guards the fields below
	running map[*upstream.Backend]context.CancelCauseFunc // by the backend they judge
	closed  bool
}

var errServiceClosed = errors.New("the service was closed")

// enter registers the judge of a backend, which cancel ends. It returns false if
// the backend has a judge already or the service is closed.
func (j *judges) enter(b *upstream.Backend, cancel context.CancelCauseFunc) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || j.running[b] != nil {
		return false
	}
	if j.running == nil {
		j.running = make(map[*upstream.Backend]context.CancelCauseFunc)
	}
	j.running[b] = cancel
	return true
}

// stop ends all judges.
func (j *judges) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, cancel := range j.running {
		cancel(errServiceClosed)
	}
}

// judging reports whether the backend has a judge.
func (j *judges) judging(b *upstream.Backend) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.running[b] != nil
}

// leave removes the judge of a backend.
func (j *judges) leave(b *upstream.Backend) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, b)
}

// close ends all judges, and lets none enter from now on.
func (j *judges) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.stop()
}
