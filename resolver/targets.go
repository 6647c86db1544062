package resolver

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// maxTargets is the most targets of a name that are kept.
const maxTargets = 64

// Target is one target of an SRV record.
type Target struct {
	Host string // lower case, ends with a dot
	Port uint16
}

// String returns the target as "host:port", without the dot of the host.
func (t Target) String() string {
	return trimDot(t.Host) + ":" + strconv.Itoa(int(t.Port))
}

// TargetList is an answer with the targets of a name.
type TargetList struct {
	Targets    []Target // in the order to try them; must not be modified
	ResolvedAt time.Time
	ExpiresAt  time.Time
}

// TargetsConfig holds the settings of [Targets].
type TargetsConfig struct {
	Name     string   // to look up
	Lifetime Lifetime // of an answer; default: one hour

	// Lookup queries the targets of a name, in the order to try them, and the least
	// TTL of the records, 0 if unknown. It must return when ctx ends. Required.
	Lookup func(ctx context.Context, name string) (targets []Target, ttl time.Duration, err error)

	// Known is an earlier answer, for example of the settings before a reload.
	// Default: none.
	Known TargetList

	Observer TargetsObserver // required
	Counts   *Counts         // default: none
}

// TargetsObserver is notified of the results of [Targets], by one goroutine and
// without locks held. Its methods must not call [Targets.Close], which waits for them.
type TargetsObserver interface {
	// Changed reports other targets than before, or another order. old is empty for
	// the first answer. surplus is the number of targets after the first 64, which are
	// left out.
	Changed(old, new []Target, surplus int)

	// Stale reports that a query failed and that the old targets, resolved age ago,
	// are kept. It is called once per outage.
	Stale(targets []Target, age time.Duration, err error)

	// Failed reports that a query failed and that there are no targets. It is called
	// once per outage.
	Failed(err error)
}

// Targets follows the SRV records of a name: it queries them at once, before an
// answer expires, and at request. A failed query keeps the targets. Create it with
// [Follow].
type Targets struct {
	cfg    TargetsConfig // set once
	ctx    context.Context
	cancel context.CancelFunc
	poke   chan struct{} // requests a query
	ended  chan struct{} // closed when run has returned

	mu       sync.Mutex // guards the fields below
	list     TargetList
	err      error         // of the last query; nil if it succeeded
	failedAt time.Time     // zero unless err is set
	reported bool          // this outage was reported
	life     time.Duration // lifetime of list
	querying bool          // a query is requested or in flight
	ready    bool          // the observer knows list
	queried  time.Time     // end of the last query
	done     chan struct{} // closed at the end of the next query
}

// Follow returns Targets of a name. The caller must close it.
func Follow(cfg TargetsConfig) *Targets {
	cfg.Lifetime = cfg.Lifetime.orDefault()
	if cfg.Counts == nil {
		cfg.Counts = new(Counts)
	}
	t := &Targets{
		cfg: cfg, list: cfg.Known, life: cfg.Lifetime.Longest(), ready: len(cfg.Known.Targets) > 0,
		poke: make(chan struct{}, 1), ended: make(chan struct{}), done: make(chan struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	go t.run() // ends with Close
	return t
}

// Name returns the name.
func (t *Targets) Name() string { return t.cfg.Name }

// Close ends the queries and waits for them. Callers of Wait get an error.
func (t *Targets) Close() {
	t.cancel()
	<-t.ended
}

// List returns the last good answer, and the failure of the last query, if it failed.
func (t *Targets) List() (TargetList, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.list, t.err
}

// Refresh requests a query, unless one is in flight or has ended less than a second
// ago. It does not wait for it.
func (t *Targets) Refresh() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.queried.IsZero() || time.Since(t.queried) >= refreshFailureMemory {
		t.requestLocked()
	}
}

// requestLocked requests a query, unless one is requested or in flight.
func (t *Targets) requestLocked() {
	if t.querying {
		return
	}
	t.querying = true
	select {
	case t.poke <- struct{}{}:
	default: // one is requested already
	}
}

// Wait waits until the name has targets. It returns the error of the query if that
// fails, or the cause of the end of ctx. For 5 s after a failed query it returns that
// failure at once.
func (t *Targets) Wait(ctx context.Context) error {
	t.mu.Lock()
	known, err, done := t.ready, t.err, t.done
	recent := err != nil && time.Since(t.failedAt) < failureMemory
	if !known && err != nil && !recent {
		t.requestLocked()
	}
	t.mu.Unlock()
	switch {
	case known:
		return nil
	case recent:
		return err
	}
	select {
	case <-done:
	case <-t.ctx.Done():
		return newLookupError(t.cfg.Name, errClosed)
	case <-ctx.Done():
		return newLookupError(t.cfg.Name, context.Cause(ctx))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ready {
		return nil
	}
	return t.err
}

// run queries the name until Close.
func (t *Targets) run() {
	defer close(t.ended)
	timer := time.NewTimer(t.firstPause())
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-t.poke:
		case <-t.ctx.Done():
			return
		}
		timer.Reset(t.query())
	}
}

// firstPause returns the time until the first query, which is due at once unless a
// known answer is fresh.
func (t *Targets) firstPause() time.Duration {
	if len(t.list.Targets) == 0 {
		return 0
	}
	left := min(time.Until(t.list.ExpiresAt), t.cfg.Lifetime.Longest())
	if left <= 0 {
		return 0
	}
	return untilRefresh(left)
}

// query queries the name once and returns the time until the next query.
func (t *Targets) query() time.Duration {
	t.mu.Lock()
	t.querying = true
	select {
	case <-t.poke: // this query is the requested one
	default:
	}
	t.mu.Unlock()
	targets, ttl, err := t.lookup()
	targets = unique(targets)
	surplus := max(0, len(targets)-maxTargets)
	targets = targets[:len(targets)-surplus]
	if err == nil && len(targets) == 0 {
		err = noAddresses(t.cfg.Name, nil)
	}
	if err != nil && t.ctx.Err() != nil {
		return time.Hour // closed
	}
	if err != nil {
		return t.failed(newLookupError(t.cfg.Name, err))
	}
	return t.succeeded(targets, ttl, surplus)
}

// unique returns the targets without those that occur before. A name must not be
// listed twice (RFC 2782), but may be.
func unique(targets []Target) []Target {
	var kept []Target
	for _, target := range targets {
		if !slices.Contains(kept, target) {
			kept = append(kept, target)
		}
	}
	return kept
}

// lookup calls the function of the config with its time limit. A panic is an error.
func (t *Targets) lookup() (targets []Target, ttl time.Duration, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	ctx, cancel := context.WithTimeout(t.ctx, flightTimeout)
	defer cancel()
	return t.cfg.Lookup(ctx, t.cfg.Name)
}

// succeeded stores an answer. The observer is called before callers of Wait return,
// so that these find the targets in use.
func (t *Targets) succeeded(targets []Target, ttl time.Duration, surplus int) time.Duration {
	t.cfg.Counts.OK.Add(1)
	now, life := time.Now(), t.cfg.Lifetime.Of(ttl)
	t.mu.Lock()
	old := t.list.Targets
	t.list = TargetList{Targets: targets, ResolvedAt: now, ExpiresAt: now.Add(life)}
	t.life, t.err, t.failedAt, t.reported = life, nil, time.Time{}, false
	t.mu.Unlock()
	if !slices.Equal(old, targets) {
		t.cfg.Observer.Changed(old, targets, surplus)
	}
	t.endQuery(now)
	return untilRefresh(life)
}

// failed stores a failure.
func (t *Targets) failed(err error) time.Duration {
	now := time.Now()
	t.mu.Lock()
	targets, age, first := t.list.Targets, now.Sub(t.list.ResolvedAt), !t.reported
	t.err, t.failedAt, t.reported = err, now, true
	life := t.life
	t.mu.Unlock()
	if len(targets) == 0 {
		t.cfg.Counts.Failed.Add(1)
		if first {
			t.cfg.Observer.Failed(err)
		}
		t.endQuery(now)
		return failureMemory
	}
	t.cfg.Counts.Stale.Add(1)
	if first {
		t.cfg.Observer.Stale(targets, age, err)
	}
	t.endQuery(now)
	return pauseAfterFailure(life)
}

// endQuery wakes the callers of Wait.
func (t *Targets) endQuery(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queried, t.querying, t.ready = now, false, len(t.list.Targets) > 0
	close(t.done)
	t.done = make(chan struct{})
}
