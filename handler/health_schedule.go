package handler

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// schedule calls the probes of a service's backends. Each backend is probed at
// times of its own, so that the probes of all backends and services are spread
// out. Its fields are set once.
type schedule struct {
	interval time.Duration
	backends func() []*upstream.Backend                              // returns the current ones, which are not modified
	start    func(b *upstream.Backend) (probe func(context.Context)) // called once for each backend
}

// refreshesPerInterval is how often per interval the schedule looks for new
// backends.
const refreshesPerInterval = 10

// run probes the backends until ctx ends, and returns when the last probe has
// ended.
func (s *schedule) run(ctx context.Context) {
	var probing sync.WaitGroup
	defer probing.Wait()
	var known []*upstream.Backend // a removed backend that is configured again is a new *Backend
	for {
		backends := s.backends()
		for _, b := range backends {
			if !slices.Contains(known, b) {
				probing.Go(func() { s.follow(ctx, b) }) // ends with ctx, or when the backend is removed
			}
		}
		known = backends
		if !s.wait(ctx, s.interval/refreshesPerInterval) {
			return
		}
	}
}

// follow probes one backend until it is removed: first after a random part of
// the interval, then once per interval. Probes do not overlap: one that takes
// longer than the interval delays the next.
func (s *schedule) follow(ctx context.Context, b *upstream.Backend) {
	probe := s.start(b)
	pause := rand.N(s.interval)
	for s.wait(ctx, pause) && slices.Contains(s.backends(), b) {
		began := time.Now()
		probe(ctx)
		pause = s.jittered() - time.Since(began)
	}
}

// jittered returns the interval plus or minus up to a tenth.
func (s *schedule) jittered() time.Duration {
	tenth := s.interval / 10
	return s.interval - tenth + rand.N(2*tenth+1)
}

// wait waits for d. It returns false if ctx ended first.
func (s *schedule) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
