package handler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file is the fire drill: faults that an operator injects into the attempts on
// one backend, to see what the failover does about them. A drill ends by itself, by
// a stop or with the process. Relays from before the drill are not affected.

// Fault is what a drilled backend seems to do.
type Fault string

// The faults. On UDP, a reset is a refusal.
const (
	FaultRefuse Fault = "refuse" // it refuses connections, or answers datagrams with ICMP port unreachable
	FaultSilent Fault = "silent" // nothing sent to it is answered
	FaultReset  Fault = "reset"  // it accepts connections and resets each
	FaultSlow   Fault = "slow"   // connecting to it takes a second longer
)

// Faults lists all faults.
var Faults = []Fault{FaultRefuse, FaultSilent, FaultReset, FaultSlow}

// slowBy is how much longer an attempt on a slow backend takes.
const slowBy = time.Second

// DrillLimit is the longest drill.
const DrillLimit = time.Hour

// Errors of drilled attempts. The word drill marks them in logs and journals.
var (
	errDrillRefused = errors.New("drill: connection refused")
	errDrillReset   = errors.New("drill: connection reset by peer")
	errDrillSilent  = errors.New("drill: no answer")
)

// ErrLastBackend is the error of a drill that would leave no backend available.
var ErrLastBackend = errors.New("it is the last backend that is available")

// Receipt is what a drill has come to so far.
type Receipt struct {
	Backend string // as configured
	Fault   Fault
	Began   time.Time
	Ends    time.Time     // when the drill ends by itself, or has ended
	Running bool          // it has not ended
	Strikes int           // of the backend
	Moved   int           // clients that met the fault and were served by another backend
	Slowest time.Duration // from the arrival of such a client to its connection; UDP: to the first answer
	Reset   int           // clients that met the fault, and were reset because they could not be sent to another backend
	Refused int           // clients that met the fault and were refused
}

// drill is a drill of one backend.
type drill struct {
	backend *upstream.Backend
	fault   Fault
	began   time.Time
	timer   *time.Timer // guarded by drills.mu, as is ends
	ends    time.Time

	done                           chan struct{} // closed at the end
	over                           atomic.Bool
	strikes, moved, reset, refused atomic.Int32
	slowest                        atomic.Int64
}

// drills are the drills of a service. The zero value has none.
type drills struct {
	active atomic.Int32 // running drills: for callers without mu

	mu      sync.Mutex // guards the fields below
	running map[*upstream.Backend]*drill
	last    map[string]*drill // the latest drill that has ended, by the backend's text
	closed  bool
}

// StartDrill injects a fault into all attempts on a backend for d, at most
// [DrillLimit]. It replaces a drill of that backend. If no other backend is
// available, the error is ErrLastBackend unless force is set. by is where the request
// came from, for the journal.
func (s *Service) StartDrill(b *upstream.Backend, fault Fault, d time.Duration, force bool, by string) (Receipt, error) {
	l := &s.drills
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return Receipt{}, errStopping
	}
	if !force && !s.othersAvailableLocked(b) {
		return Receipt{}, ErrLastBackend
	}
	l.endLocked(b)
	now := time.Now()
	d = min(d, DrillLimit)
	started := &drill{backend: b, fault: fault, began: now, ends: now.Add(d), done: make(chan struct{})}
	started.timer = time.AfterFunc(d, func() { s.endDrill(started, "") })
	if l.running == nil {
		l.running, l.last = make(map[*upstream.Backend]*drill), make(map[string]*drill)
	}
	l.running[b] = started
	l.active.Add(1)
	s.Journal.Add(Entry{Kind: KindDrill, Backend: b.Text, Cause: fmt.Sprintf("%s for %s", fault, d), By: by})
	return started.receipt(true), nil
}

// othersAvailableLocked reports whether a backend other than b gets clients and is
// neither down nor drilled.
func (s *Service) othersAvailableLocked(b *upstream.Backend) bool {
	for _, other := range s.Pool.Undrained() {
		if other != b && s.drills.running[other] == nil && !other.Down(upstream.TCP) && !other.Down(upstream.UDP) {
			return true
		}
	}
	return false
}

// StopDrill ends the drill of a backend, and reports whether there was one.
func (s *Service) StopDrill(b *upstream.Backend, by string) bool {
	s.drills.mu.Lock()
	drill := s.drills.running[b]
	s.drills.mu.Unlock()
	return drill != nil && s.endDrill(drill, by)
}

// Drill returns the receipt of a backend's drill, or of the latest one that has
// ended. It reports false if there was none.
func (s *Service) Drill(b *upstream.Backend) (Receipt, bool) {
	s.drills.mu.Lock()
	defer s.drills.mu.Unlock()
	if drill := s.drills.running[b]; drill != nil {
		return drill.receipt(true), true
	}
	if drill := s.drills.last[b.Text]; drill != nil {
		return drill.receipt(false), true
	}
	return Receipt{}, false
}

// endDrill ends a drill unless it has ended. by is empty if it ends by itself.
func (s *Service) endDrill(d *drill, by string) bool {
	s.drills.mu.Lock()
	defer s.drills.mu.Unlock()
	if s.drills.running[d.backend] != d {
		return false
	}
	s.drills.endLocked(d.backend)
	s.Journal.Add(Entry{Kind: KindDrillEnd, Backend: d.backend.Text, Cause: d.receipt(false).String(), By: by})
	return true
}

// endLocked ends the drill of a backend, if there is one.
func (l *drills) endLocked(b *upstream.Backend) {
	d := l.running[b]
	if d == nil {
		return
	}
	d.timer.Stop()
	d.over.Store(true)
	close(d.done)
	if now := time.Now(); now.Before(d.ends) {
		d.ends = now
	}
	delete(l.running, b)
	l.last[b.Text] = d
	l.active.Add(-1)
}

// close ends all drills, and lets none start from now on.
func (l *drills) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for b := range l.running {
		l.endLocked(b)
	}
}

// of returns the drill of a backend; nil if there is none.
func (l *drills) of(b *upstream.Backend) *drill {
	if l.active.Load() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running[b]
}

// receipt is called with drills.mu.
func (d *drill) receipt(running bool) Receipt {
	return Receipt{
		Backend: d.backend.Text, Fault: d.fault, Began: d.began, Ends: d.ends, Running: running,
		Strikes: int(d.strikes.Load()), Moved: int(d.moved.Load()), Reset: int(d.reset.Load()), Refused: int(d.refused.Load()),
		Slowest: time.Duration(d.slowest.Load()),
	}
}

// String returns the figures in words.
func (r Receipt) String() string {
	return fmt.Sprintf("%d strikes, %d clients moved, the slowest served after %s, %d reset, %d refused", r.Strikes, r.Moved, r.Slowest.Round(time.Millisecond), r.Reset, r.Refused)
}

// delay makes an attempt on a slow backend wait, and fails one on a backend that
// refuses or is silent. An attempt that waits at the end of the drill continues. d
// may be nil.
func (d *drill) delay(ctx context.Context) error {
	if d == nil {
		return nil
	}
	switch d.fault {
	case FaultRefuse:
		return errDrillRefused
	case FaultSilent:
		select {
		case <-d.done:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errDrillSilent, context.Cause(ctx))
		}
	case FaultSlow:
		select {
		case <-time.After(slowBy):
		case <-d.done:
		case <-ctx.Done():
			return fmt.Errorf("drill: %w", context.Cause(ctx))
		}
	}
	return nil
}

// probe makes a check of the backend see the fault. Without that, the backend would
// pass its checks and get clients again. d may be nil.
func (d *drill) probe(ctx context.Context) error {
	if d.resets() {
		return errDrillReset
	}
	return d.delay(ctx)
}

// Probe is [HealthCheck.Probe] for an address of a backend, and sees the fault of a
// drill of that backend.
func (s *Service) Probe(ctx context.Context, b *upstream.Backend, c *HealthCheck, n upstream.Network, addr netip.AddrPort) error {
	if err := s.drills.of(b).probe(ctx); err != nil {
		return err
	}
	return c.Probe(ctx, n, addr)
}

// EndRemoved ends the drills of backends that are not in the queue any more. by is the cause, for the journal.
func (s *Service) EndRemoved(by string) {
	removed := func(b *upstream.Backend) bool { return s.Pool.Backend(b.Text) != b }
	s.drills.mu.Lock()
	running := slices.Collect(maps.Values(s.drills.running))
	s.drills.mu.Unlock()
	for _, d := range running {
		if removed(d.backend) {
			s.endDrill(d, by)
		}
	}
}

// LastDrill returns the receipt of the latest drill that has ended of a backend,
// which may have left the queue.
func (s *Service) LastDrill(backend string) (Receipt, bool) {
	s.drills.mu.Lock()
	defer s.drills.mu.Unlock()
	if d := s.drills.last[backend]; d != nil {
		return d.receipt(false), true
	}
	return Receipt{}, false
}

// resets reports whether connections to the backend are to be reset. d may be nil.
func (d *drill) resets() bool { return d != nil && d.fault == FaultReset }

// served counts a client that met the fault and was served by another backend, and
// how long that took. d may be nil.
func (d *drill) served(took time.Duration) {
	if d == nil {
		return
	}
	d.moved.Add(1)
	for {
		slowest := d.slowest.Load()
		if int64(took) <= slowest || d.slowest.CompareAndSwap(slowest, int64(took)) {
			return
		}
	}
}

// countRefused counts a client that met the fault and was refused. d may be nil.
func (d *drill) countRefused() {
	if d != nil {
		d.refused.Add(1)
	}
}

// noteDrill counts what the outcome of an attempt means for a drill.
func (t *attempts) noteDrill(o outcome) {
	if o.err == nil && t.drill != nil && t.drill.backend != o.attempt.Backend {
		t.drill.served(time.Since(t.of.beganAt()))
	}
}

// silent returns the drill of a backend if it makes the backend silent, or else nil.
func (l *drills) silent(b *upstream.Backend) *drill {
	if d := l.of(b); d != nil && d.fault == FaultSilent {
		return d
	}
	return nil
}
