package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// DefaultTimeout is how long a command may run if its Config does not say.
const DefaultTimeout = 30 * time.Second

// Config says what to run for which events. It must not change once it was
// given to [Runner.Run].
type Config struct {
	Command string   // a path, or a name to be found in PATH
	Args    []string // given as they are
	Events  []string // types of events to run it for; all if empty
	Timeout time.Duration
	Log     *zap.Logger // gets the fields service, event and command with each line
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

// Limits bound what a [Runner] does at a time.
type Limits struct {
	Running int // commands at once; 4 if 0
	Waiting int // events that wait behind them; 64 if 0
}

// closePatience is how long [Runner.Close] waits: for longer than the end of a
// command takes, unless the system itself holds it.
const closePatience = 5 * time.Second

// Reasons for events to be dropped, and for a command to be ended.
var (
	errFull   = errors.New("too many events wait already")
	errClosed = errors.New("the relay exits")
)

// Runner runs commands. An idle one has no goroutines.
type Runner struct {
	limits  Limits
	execute func(context.Context, job) // runs a command to its end; tests have their own
	life    context.Context            // ends with Close, and commands with it
	end     context.CancelCauseFunc
	over    chan struct{} // closed when Close was called and no command runs
	drops   drops

	mu      sync.Mutex      // guards what follows
	busy    map[string]bool // services that a command runs for, and a goroutine for each
	waiting []job           // in the order of their coming
	closed  bool
}

// job is a command to run.
type job struct {
	Config
	event Event
}

// New makes a runner. Its owner has to close it.
func New(limits Limits) *Runner {
	if limits.Running == 0 {
		limits.Running = 4
	}
	if limits.Waiting == 0 {
		limits.Waiting = 64
	}
	r := &Runner{limits: limits, execute: execute, over: make(chan struct{}), busy: make(map[string]bool)}
	r.life, r.end = context.WithCancelCause(context.Background())
	return r
}

// Run has the command run for an event, after those of earlier events of the
// same service, and does not wait for it. What became of it is in the log. If
// too many events wait already this one is dropped; after Close nothing is run.
func (r *Runner) Run(cfg Config, e Event) {
	if !cfg.wants(e) {
		return
	}
	j := job{cfg, e}
	r.mu.Lock()
	full := false
	switch {
	case r.closed:
	case len(r.busy) < r.limits.Running && !r.busy[e.Service]:
		r.busy[e.Service] = true
		go r.work(j) // ends when no event that waits may run next; Close waits for it
	case len(r.waiting) < r.limits.Waiting:
		r.waiting = append(r.waiting, j)
	default:
		full = true
	}
	r.mu.Unlock()
	if full {
		r.drops.note(1, j, errFull)
	}
}

// Dropped counts the events that were dropped.
func (r *Runner) Dropped() uint64 { return r.drops.count() }

// Close drops the events that wait, ends the commands that run and waits for
// their end. The error says that some would not end.
func (r *Runner) Close() error {
	r.mu.Lock()
	waiting := r.waiting
	r.waiting = nil
	if !r.closed && len(r.busy) == 0 {
		close(r.over)
	}
	r.closed = true
	r.mu.Unlock()

	r.end(errClosed)
	if n := len(waiting); n > 0 {
		r.drops.note(n, waiting[n-1], errClosed)
	}
	r.drops.close()
	select {
	case <-r.over:
		return nil
	case <-time.After(closePatience):
		r.mu.Lock()
		defer r.mu.Unlock()
		return fmt.Errorf("ending event commands: %d still run after %v", len(r.busy), closePatience)
	}
}

// work runs a command, and then others that may run in its stead.
func (r *Runner) work(j job) {
	for more := true; more; {
		r.execute(r.life, j)
		j, more = r.next(j.event.Service)
	}
}

// next is called when the command of a service is over, and takes the first
// event that may run now. More than one there can't be: this end made room for
// one command, and let one service go on.
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
		close(r.over)
	}
	return job{}, false
}
