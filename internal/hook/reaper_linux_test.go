package hook

import (
	"os"
	"os/exec"
	"testing"

	"github.com/prometheus/procfs"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// As PID 1, the process removes what commands have left in the background, and takes no
// command for an orphan.
func TestOrphansAreReaped(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil || exec.Command(unshare, "--pid", "--fork", "--mount-proc", "true").Run() != nil {
		t.Skip("needs unshare(1) and the right to make a PID namespace")
	}
	inNamespace := func(cmd *exec.Cmd) {
		cmd.Args = append([]string{unshare, "--pid", "--fork", "--mount-proc", "--kill-child", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = unshare
	}
	if !relaytest.InChildCommand(t, inNamespace) {
		return
	}
	if os.Getpid() != 1 {
		t.Fatalf("the PID is %d", os.Getpid())
	}
	rig := newSharedRig(t) // a goroutine of package os/signal stays
	r := New(Limits{})
	run := func(script string) {
		cfg := rig.config()
		cfg.Command, cfg.Args = "sh", []string{"-c", script}
		r.Run(cfg, failedEvent)
	}
	// The second command has ended when its output is still open, for longer than an orphan
	// may take. Its status must not be lost.
	run("sleep 0.1 >/dev/null 2>&1 & setsid sleep 0.1 >/dev/null 2>&1 & (setsid sh -c 'sleep 0.1 & sleep 0.2' >/dev/null 2>&1 &)")
	run("sleep 3 & exit 5")
	relaytest.Eventually(t, "the end of both commands", func() bool { return len(rig.logs.FilterMessage("event command failed").All()) == 1 })
	rig.wantLine(zapcore.WarnLevel, "event command failed", "exit_status", int64(5))
	relaytest.Eventually(t, "the orphans to be removed", func() bool { return len(children(t)) == 0 })
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// children returns the names of the processes whose parent is this one.
func children(t *testing.T) (names []string) {
	t.Helper()
	proc, err := procfs.NewDefaultFS()
	relaytest.Check(t, err)
	processes, err := proc.AllProcs()
	relaytest.Check(t, err)
	for _, process := range processes {
		if stat, err := process.Stat(); err == nil && stat.PPID == os.Getpid() {
			names = append(names, stat.Comm+" "+stat.State)
		}
	}
	return names
}
