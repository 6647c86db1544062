package handler

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// schedule has backends probed, each at times of its own, so that neither the
// backends of a service nor the services are all probed at one time. Its
// fields are set once.
type schedule struct {
	interval time.Duration
	backends func() []*upstream.Backend                              // those there are now; not to be edited
	attend   func(b *upstream.Backend) (probe func(context.Context)) // begins with a backend
}

// looksPerInterval is how often the schedule looks for new backends.
const looksPerInterval = 10

// run follows the backends until ctx ends, and returns when the last probe has
// ended.
func (s *schedule) run(ctx context.Context) {
	var probing sync.WaitGroup
	defer probing.Wait()
	var known []*upstream.Backend // one that is gone never comes back: it would be another
	for {
		backends := s.backends()
		for _, b := range backends {
			if !slices.Contains(known, b) {
				probing.Go(func() { s.follow(ctx, b) }) // ends with ctx, or when the backend is gone
			}
		}
		known = backends
		if !s.wait(ctx, s.interval/looksPerInterval) {
			return
		}
	}
}

// follow probes one backend for as long as it is there: first after some part
// of the interval, then once an interval, or when the probe before has ended.
func (s *schedule) follow(ctx context.Context, b *upstream.Backend) {
	probe := s.attend(b)
	pause := rand.N(s.interval)
	for s.wait(ctx, pause) && slices.Contains(s.backends(), b) {
		began := time.Now()
		probe(ctx)
		pause = s.jittered() - time.Since(began)
	}
}

// jittered is the interval, give or take a tenth.
func (s *schedule) jittered() time.Duration {
	tenth := s.interval / 10
	return s.interval - tenth + rand.N(2*tenth+1)
}

// wait waits for d; false if ctx has ended.
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
