package module

import (
	"context"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// shutDown runs when the process exits, after Caddy has closed all listeners. It
// gives the relays of all services, of all configs, time to finish. The services
// wait in parallel, each up to its shutdown_timeout; then shutDown cuts the
// remaining relays. If there are no relays, it does not wait. Last, it writes the
// lines that wait for Caddy's logs.
func shutDown(context.Context) {
	var finished, cut atomic.Int64
	var draining sync.WaitGroup
	services.Range(func(_, value any) bool {
		s := value.(*service)
		if !s.Idle() {
			draining.Go(func() {
				f, c := s.Drain(s.shutdownTimeout())
				finished.Add(int64(f))
				cut.Add(int64(c))
			})
		}
		return true
	})
	draining.Wait()
	if err := hooks.Close(); err != nil {
		processLog().Error("event commands still running", zap.Error(err))
	}
	if finished.Load()+cut.Load() > 0 {
		processLog().Info("relays drained", zap.Int64("finished", finished.Load()), zap.Int64("cut", cut.Load()))
	}
	logs.Flush(logFlushTimeout)
}
