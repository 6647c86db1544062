package module

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// replaced reports whether another process has taken over from this one.
var replaced atomic.Bool

// lastDatagrams bounds the wait for the last datagrams of the UDP clients of a process
// that was replaced.
const lastDatagrams = time.Second

// responseTime is the time that the admin API gets to send the response to the request
// that replaced this process.
const responseTime = time.Second

// leaving reports whether the process exits once its relays have ended.
func leaving() bool { return caddy.Exiting() || replaced.Load() }

// shutDown runs when the process exits, after Caddy has closed all listeners. It
// gives the relays of all services, of all configs, time to finish. The services
// wait in parallel, each up to its shutdown_timeout; then shutDown cuts the
// remaining relays. If there are no relays, it does not wait. Last, it writes the
// lines that wait for Caddy's logs.
func shutDown(context.Context) {
	upgrades.abort()
	if hasRelays() {
		defer notifyDraining(time.Time{})()
	}
	endRelays((*service).Drain)
	writeExitMemory()
	logs.Flush(logFlushTimeout)
}

// hasRelays reports whether any service has relays.
func hasRelays() (found bool) {
	services.Range(func(_, value any) bool {
		found = !value.(*service).Idle()
		return !found
	})
	return found
}

// finish is shutDown for a process that was replaced by another one. It exits.
func finish() {
	time.Sleep(responseTime)
	endRelays((*service).Finish)
	sockets.Finish(lastDatagrams)
	if !caddy.Exiting() { // else Caddy exits after shutDown
		if started.pidFile != "" {
			_ = os.Remove(oldPIDFile())
		}
		os.Exit(caddy.ExitCodeSuccess)
	}
}

// endRelays ends the relays of all services in parallel. end is given a service and
// its shutdown_timeout.
func endRelays(end func(s *service, timeout time.Duration) (finished, cut int)) {
	var finished, cut atomic.Int64
	var draining sync.WaitGroup
	services.Range(func(_, value any) bool {
		s := value.(*service)
		if !s.Idle() {
			draining.Go(func() {
				f, c := end(s, s.shutdownTimeout())
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
