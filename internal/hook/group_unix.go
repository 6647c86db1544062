//go:build unix

package hook

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// setGroup has a command lead a process group of its own.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} }

func terminate(leader *os.Process) { _ = unix.Kill(-leader.Pid, unix.SIGTERM) }

func kill(leader *os.Process) { _ = unix.Kill(-leader.Pid, unix.SIGKILL) }

// groupAlive says whether anybody is left in the group of a leader that is gone.
func groupAlive(leader *os.Process) bool { return unix.Kill(-leader.Pid, 0) == nil }
