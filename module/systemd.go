package module

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
)

// This file keeps systemd from killing a process that drains its relays, and lets it
// supervise the process that replaces this one. Caddy's own unit has a stop timeout
// of 5 s.

const (
	// stopExtension is by how much each message extends systemd's stop timeout, from
	// the time of the message.
	stopExtension = 10 * time.Second
	// stopMessages is the interval of the messages.
	stopMessages = 2 * time.Second
)

// extendStopTimeout makes the exit of the process extend systemd's stop timeout, from
// before Caddy stops the apps of the config: that may take longer than the timeout.
func extendStopTimeout(ctx caddy.Context) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	return events.(*caddyevents.App).On("stopping", stoppingHandler{})
}

// stoppingHandler handles the event that Caddy emits before it stops the apps.
type stoppingHandler struct{}

// Handle implements caddyevents.Handler. Other apps may wait without a limit, so it
// extends the timeout no longer than relays may continue.
func (stoppingHandler) Handle(context.Context, caddy.Event) error {
	if !caddy.Exiting() {
		return nil // a reload
	}
	var longest time.Duration
	services.Range(func(_, value any) bool {
		if s := value.(*service); !s.Idle() {
			longest = max(longest, s.shutdownTimeout())
		}
		return true
	})
	if longest > 0 {
		_ = notifyDraining(time.Now().Add(longest)) // the process exits before it would matter
	}
	return nil
}

// notifyDraining extends systemd's stop timeout again and again until stop is called,
// and not after a time; zero: without a limit. Without systemd it does nothing.
func notifyDraining(until time.Time) (stop func()) {
	stopped := make(chan struct{})
	if extend() {
		go func() { // ends with stop, or at until
			tick := time.NewTicker(stopMessages)
			defer tick.Stop()
			for until.IsZero() || time.Now().Before(until) {
				select {
				case <-tick.C:
					extend()
				case <-stopped:
					return
				}
			}
		}()
	}
	return func() { close(stopped) }
}

// extend extends systemd's stop timeout once. It returns false if nothing listens.
func extend() bool {
	sent, err := daemon.SdNotify(false, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", stopExtension.Microseconds()))
	if err != nil {
		processLog().Warn("stop timeout of systemd not extended", zap.Error(err))
	}
	return sent
}

// notifyMainPID tells systemd that another process is the main one of the unit.
func notifyMainPID(pid int) {
	if _, err := daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d", pid)); err != nil {
		processLog().Warn("systemd not notified of the new process", zap.Error(err))
	}
}

// isSupervised reports whether the parent of this process is the systemd that manages
// its unit. A process that replaces this one must then be its child too. Otherwise
// systemd notices the end of the new process only after that of this one, and then
// does not know that it failed, so Restart=on-failure does not restart it.
func isSupervised() bool {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return false
	}
	parent := os.Getppid()
	if parent == 1 {
		return true
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent)) // the one of a user
	return err == nil && strings.TrimSpace(string(name)) == "systemd"
}
