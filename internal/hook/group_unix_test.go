//go:build unix

package hook

import (
	"os/exec"
	"testing"

	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// leaveGroup starts cmd in a session, and so in a process group, of its own.
func leaveGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true} }

// A timeout ends all processes of the command's group, even if they ignore
// SIGTERM.
func TestTimeoutEndsGroup(t *testing.T) {
	noLeaks(t)
	for _, test := range []struct {
		name string
		args []string
		born int
	}{
		{"alone", []string{"live", ""}, 1},
		{"ignores SIGTERM", []string{"stubborn", ""}, 1},
		{"with a child", []string{"fork", "", "live", "stay"}, 2},
		{"child holds the output", []string{"fork", "", "live", "leave"}, 1},
		{"child holds the output and ignores SIGTERM", []string{"fork", "", "stubborn", "leave"}, 1},
		{"child has no output", []string{"fork", "", "live", "stay quiet"}, 2},
		{"child has no output and ignores SIGTERM", []string{"fork", "", "stubborn", "stay quiet"}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newSharedRig(t)
			lives := newLifelines(t)
			test.args[1] = lives.String()
			s := r.start(test.args...)
			for range test.born {
				conn := lives.born()
				wantAlive(t, conn)
				defer wantDead(t, conn)
			}
			s.stop(errTimeout)
			relaytest.Receive(t, "the end of the command", s.done)
			r.wantLine(zapcore.ErrorLevel, "event command timed out")
		})
	}
}

// Every process of the group gets SIGTERM and time to exit, leader or not.
func TestGroupGetsSIGTERMFirst(t *testing.T) {
	for _, test := range []struct {
		name   string
		args   []string
		born   int
		status int64
	}{
		{"leader", []string{"polite", ""}, 1, 7},
		{"child", []string{"fork", "", "polite", "stay"}, 2, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			lives := newLifelines(t)
			test.args[1] = lives.String()
			s := r.start(test.args...)
			for range test.born {
				lives.born()
			}
			s.stop(errTimeout)
			relaytest.Receive(t, "the end of the command", s.done)
			r.wantLine(zapcore.ErrorLevel, "event command timed out", "exit_status", test.status, "stdout", "goodbye")
		})
	}
}

// A child in a session of its own is not stopped. Although it holds the output
// open, run returns.
func TestOutputHeldOutsideGroup(t *testing.T) {
	r := newRig(t)
	lives := newLifelines(t)
	s := r.start("fork", lives.String(), "live", "leave away")
	conn := lives.born()
	s.stop(errTimeout)
	relaytest.Receive(t, "the end of the command", s.done)
	wantAlive(t, conn)
	r.wantLine(zapcore.ErrorLevel, "event command timed out")
	_ = conn.Close() // ends the child
}

// A background child that does not hold the output keeps running after the
// command has ended.
func TestBackgroundProcessKeepsRunning(t *testing.T) {
	r := newRig(t)
	lives := newLifelines(t)
	s := r.start("fork", lives.String(), "live", "leave quiet")
	conn := lives.born()
	relaytest.Receive(t, "the end of the command", s.done)
	wantAlive(t, conn)
	r.wantLine(zapcore.InfoLevel, "event command succeeded")
	_ = conn.Close() // ends the child
}

// Close ends the children of commands too, and waits for all of them.
func TestCloseEndsGroups(t *testing.T) {
	r := newRig(t)
	lives := newLifelines(t)
	runner := New(Limits{})
	for range 2 {
		runner.Run(r.config("fork", lives.String(), "stubborn", "stay"), failedEvent)
	}
	leader, child := lives.born(), lives.born()
	relaytest.Check(t, runner.Close())
	r.wantLine(zapcore.WarnLevel, "event command ended early", "error", errClosed.Error())
	r.wantLine(zapcore.ErrorLevel, "events dropped", "count", uint64(1), "error", errClosed.Error())
	wantDead(t, leader)
	wantDead(t, child)
}
