package hook

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestSuccess(t *testing.T) {
	r := newRig(t)
	r.run(failedEvent, "say", " done \n", "by the way", "0")
	r.wantLine(zapcore.InfoLevel, "event command succeeded", "command", self(t), "exit_status", int64(0))
	r.wantLine(zapcore.DebugLevel, "event command output", "stdout", "done", "stderr", "by the way")
	if took, ok := r.line("event command succeeded").ContextMap()["duration"].(time.Duration); !ok || took <= 0 {
		t.Errorf("duration is %v", took)
	}
}

// A command without output gets only one log line.
func TestSuccessWithoutOutput(t *testing.T) {
	r := newRig(t)
	r.run(failedEvent, "say", "", "", "0")
	r.wantLine(zapcore.InfoLevel, "event command succeeded")
	if r.logs.Len() != 1 {
		t.Errorf("logged:\n%s", r.transcript())
	}
}

func TestFailure(t *testing.T) {
	r := newRig(t)
	r.run(failedEvent, "say", "on it", "no such host\n", "3")
	r.wantLine(zapcore.WarnLevel, "event command failed", "exit_status", int64(3), "stderr", "no such host", "error", "exit status 3")
	if r.logs.Len() != 1 {
		t.Errorf("logged:\n%s", r.transcript())
	}
}

// 100 MB on each output neither block the command nor are kept in memory.
func TestMuchOutput(t *testing.T) {
	r := newRig(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r.run(failedEvent, "flood", "100")
	runtime.ReadMemStats(&after)
	r.wantLine(zapcore.DebugLevel, "event command output", "stdout", strings.Repeat("0", 4096), "stderr", strings.Repeat("0", 4096))
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 5_000_000 {
		t.Errorf("allocated %d bytes", grown)
	}
}

func TestNotStarted(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	relaytest.Check(t, os.WriteFile(plain, []byte("not a program"), 0o600))
	for _, test := range []struct {
		name, command, service, message string
	}{
		{"no such path", filepath.Join(dir, "nothing"), "test", "event command not found"},
		{"no such name", "no-such-command-of-caddy-relay", "test", "event command not found"},
		{"not executable", plain, "test", "event command not executable"},
		{"invalid argument", self(t), "test", "event command not started"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "not executable" && runtime.GOOS == "windows" {
				t.Skip("no execute permission on this system")
			}
			r := newRig(t)
			cfg := r.config("say", "", "", "0")
			cfg.Command = test.command
			if test.name == "invalid argument" {
				cfg.Args = append(cfg.Args, "a zero byte: \x00")
			}
			execute(t.Context(), job{cfg, failedEvent})
			r.wantLine(zapcore.ErrorLevel, test.message, "command", test.command)
			if r.line(test.message).ContextMap()["error"] == nil || r.logs.Len() != 1 {
				t.Errorf("logged:\n%s", r.transcript())
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	r := newRig(t)
	cfg := r.config("live", newLifelines(t).String())
	cfg.Timeout = 50 * time.Millisecond
	execute(t.Context(), job{cfg, failedEvent})
	r.wantLine(zapcore.ErrorLevel, "event command timed out", "error", errTimeout.Error(), "exit_status", r.killedStatus())
}

// A command that ends just before its timeout counts as ended, not as timed out.
func TestStopAfterEnd(t *testing.T) {
	r := newRig(t)
	c, err := start(job{r.config("say", "", "", "0"), failedEvent})
	relaytest.Check(t, err)
	relaytest.Receive(t, "the end of the command", c.done)
	if cause := c.stop(errTimeout); cause != nil {
		t.Errorf("stop returned %v", cause)
	}
}

func TestDefaultTimeout(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{0: DefaultTimeout, -1: DefaultTimeout, 1: 1} {
		if got := (&Config{Timeout: given}).timeout(); got != want {
			t.Errorf("timeout %v became %v, want %v", given, got, want)
		}
	}
}

// killedStatus returns the exit status of a process ended by [command.stop].
func (r *rig) killedStatus() int64 {
	if runtime.GOOS == "windows" {
		return 1
	}
	return -1
}

// A command that starts after Close is stopped at once.
func TestStartAfterClose(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errClosed)
	execute(ctx, job{r.config("live", newLifelines(t).String()), failedEvent})
	r.wantLine(zapcore.WarnLevel, "event command ended early", "error", errClosed.Error())
}
