//go:build unix

package hook

import (
	"os/exec"
	"testing"

	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

func leaveGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true} }

// Whoever is in the group of a command is ended with it, whatever they do.
func TestGroupIsEnded(t *testing.T) {
	noLeaks(t)
	for _, test := range []struct {
		name string
		args []string
		born int
	}{
		{"alone", []string{"live", ""}, 1},
		{"deaf to requests", []string{"stubborn", ""}, 1},
		{"with a child", []string{"fork", "", "live", "stay"}, 2},
		{"child holds the output", []string{"fork", "", "live", "leave"}, 1},
		{"deaf child holds the output", []string{"fork", "", "stubborn", "leave"}, 1},
		{"child has no output", []string{"fork", "", "live", "stay quiet"}, 2},
		{"deaf child has no output", []string{"fork", "", "stubborn", "stay quiet"}, 2},
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
			s.cut(errTimeout)
			receive(t, "the end of the command", s.over)
			r.wantLine(zapcore.ErrorLevel, "event command timed out")
		})
	}
}

// Whoever hears the request has time to see to it, leader or not.
func TestGroupIsAskedFirst(t *testing.T) {
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
			s.cut(errTimeout)
			receive(t, "the end of the command", s.over)
			r.wantLine(zapcore.ErrorLevel, "event command timed out", "exit_status", test.status, "stdout", "goodbye")
		})
	}
}

// A child in a session of its own is out of reach, but its hold on the output
// does not hold the runner.
func TestOutputHeldFromOutside(t *testing.T) {
	r := newRig(t)
	lives := newLifelines(t)
	s := r.start("fork", lives.String(), "live", "leave away")
	conn := lives.born()
	s.cut(errTimeout)
	receive(t, "the end of the command", s.over)
	wantAlive(t, conn)
	r.wantLine(zapcore.ErrorLevel, "event command timed out")
	_ = conn.Close() // which ends it
}

// What a command leaves in the background, without its output, is left alone.
func TestBackgroundIsLeftAlone(t *testing.T) {
	r := newRig(t)
	lives := newLifelines(t)
	s := r.start("fork", lives.String(), "live", "leave quiet")
	conn := lives.born()
	receive(t, "the end of the command", s.over)
	wantAlive(t, conn)
	r.wantLine(zapcore.InfoLevel, "event command succeeded")
	_ = conn.Close() // which ends it
}

// Close takes the children of commands along, and waits for all.
func TestCloseEndsGroups(t *testing.T) {
	r := newRig(t)
	lives := newLifelines(t)
	runner := New(Limits{})
	for range 2 {
		runner.Run(r.config("fork", lives.String(), "stubborn", "stay"), failedEvent)
	}
	leader, child := lives.born(), lives.born()
	check(t, runner.Close())
	r.wantLine(zapcore.WarnLevel, "event command ended early", "error", errClosed.Error())
	r.wantLine(zapcore.ErrorLevel, "events dropped", "count", uint64(1), "error", errClosed.Error())
	wantDead(t, leader)
	wantDead(t, child)
}
