package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/loglimit"
)

// DefaultTimeout is the timeout of a command whose [Config] has none.
const DefaultTimeout = 30 * time.Second

// Config holds a command and the events that it is run for. It must not change
// once it was passed to [Runner.Run].
type Config struct {
	Command string        // a path, or a name that is looked up in PATH
	Args    []string      // passed unchanged, without a shell
	Events  []string      // the types of events to run it for; empty: all
	Timeout time.Duration // 0: DefaultTimeout
	Log     *zap.Logger   // each line has the fields service, event and command
}

func (c *Config) wants(e Event) bool {
	return len(c.Events) == 0 || slices.Contains(c.Events, e.Type)
}

func (c *Config) timeout() time.Duration {
	if c.Timeout <= 0 {
		return DefaultTimeout
	}
	return c.Timeout
}

// Limits bounds the work of a [Runner].
type Limits struct {
	Running int // commands in parallel; 0: 4
	Waiting int // events in the queue; 0: 64
}

// closeTimeout bounds [Runner.Close]. It is longer than command.stop takes, so
// it expires only if the kernel cannot end a process.
const closeTimeout = 5 * time.Second

// Reasons why events are dropped and why commands are stopped.
var (
	errFull   = errors.New("event queue full")
	errClosed = errors.New("relay is exiting")
)

// Runner runs commands. An idle Runner has no goroutines. In a process with the PID 1,
// it removes what commands have left running once that has ended, on one goroutine
// until Close.
type Runner struct {
	limits  Limits
	execute func(context.Context, job) // runs one command until it ends; replaced by tests
	ctx     context.Context            // ends with Close, which stops the commands
	cancel  context.CancelCauseFunc
	stopped chan struct{} // closed once Close was called and no command runs
	drops   loglimit.Limiter
	reaping sync.Once

	mu      sync.Mutex      // guards the fields below
	busy    map[string]bool // the services whose command runs; each has one goroutine
	waiting []job           // in order of arrival
	closed  bool
}

// job is one run of a command for one event.
type job struct {
	Config
	event Event
}

// New returns a Runner. The caller must close it.
func New(limits Limits) *Runner {
	if limits.Running == 0 {
		limits.Running = 4
	}
	if limits.Waiting == 0 {
		limits.Waiting = 64
	}
	r := &Runner{limits: limits, execute: execute, stopped: make(chan struct{}), busy: make(map[string]bool)}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

// Run runs the command for an event, after those of earlier events of the same
// service. It does not wait for the command; the result is logged. If the queue
// is full, the event is dropped. After Close, Run does nothing.
func (r *Runner) Run(cfg Config, e Event) {
	if !cfg.wants(e) {
		return
	}
	if adoptsOrphans() {
		r.reaping.Do(func() { go reap(r.ctx.Done()) }) // returns after Close
	}
	j := job{cfg, e}
	r.mu.Lock()
	full := false
	switch {
	case r.closed:
	case len(r.busy) < r.limits.Running && !r.busy[e.Service]:
		r.busy[e.Service] = true
		go r.work(j) // returns when no waiting event may run next; Close waits for it
	case len(r.waiting) < r.limits.Waiting:
		r.waiting = append(r.waiting, j)
	default:
		full = true
	}
	r.mu.Unlock()
	if full {
		r.drop(1, j, errFull)
	}
}

// Dropped returns the number of dropped events.
func (r *Runner) Dropped() uint64 { return r.drops.Total() }

// drop counts and logs n dropped events, of which j is the last.
func (r *Runner) drop(n int, j job, reason error) {
	r.drops.Log(j.Log, zapcore.ErrorLevel, "events dropped", uint64(n), append(j.fields(), zap.Error(reason))...)
}

// Close drops the waiting events, stops the running commands and waits for their
// end. It returns an error if commands still run after closeTimeout.
func (r *Runner) Close() error {
	r.mu.Lock()
	waiting := r.waiting
	r.waiting = nil
	if !r.closed && len(r.busy) == 0 {
		close(r.stopped)
	}
	r.closed = true
	r.mu.Unlock()

	r.cancel(errClosed)
	if n := len(waiting); n > 0 {
		r.drop(n, waiting[n-1], errClosed)
	}
	r.drops.Close()
	select {
	case <-r.stopped:
		return nil
	case <-time.After(closeTimeout):
		r.mu.Lock()
		defer r.mu.Unlock()
		return fmt.Errorf("stop event commands: %d still running after %v", len(r.busy), closeTimeout)
	}
}

// work runs a command, and then the waiting ones that may run next.
func (r *Runner) work(j job) {
	for more := true; more; {
		r.execute(r.ctx, j)
		j, more = r.next(j.event.Service)
	}
}

// next is called when the command of a service has ended. It removes the first
// waiting event that may run now from the queue and returns it. One is enough:
// the end of one command makes room for one other.
func (r *Runner) next(service string) (job, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, service)
	i := slices.IndexFunc(r.waiting, func(j job) bool { return !r.busy[j.event.Service] })
	if i >= 0 {
		j := r.waiting[i]
		r.waiting = slices.Delete(r.waiting, i, i+1)
		r.busy[j.event.Service] = true
		return j, true
	}
	if r.closed && len(r.busy) == 0 {
		close(r.stopped)
	}
	return job{}, false
}
