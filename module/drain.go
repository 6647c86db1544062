package module

import (
	"context"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// drain is what the process does last, once its listeners are closed: the
// relays of all services, of whichever config they are, finish side by side,
// each service up to its shutdown_timeout; the rest is cut. Without relays it
// takes no time.
func drain(context.Context) {
	var finished, cut atomic.Int64
	var draining sync.WaitGroup
	services.Range(func(_, value any) bool {
		s := value.(*service)
		if s.busy() {
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
		processLog().Error("event commands still run", zap.Error(err))
	}
	if finished.Load()+cut.Load() > 0 {
		processLog().Info("relays drained", zap.Int64("finished", finished.Load()), zap.Int64("cut", cut.Load()))
	}
}
