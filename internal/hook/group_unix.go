//go:build unix

package hook

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// setGroup makes a command the leader of a new process group.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} }

// terminate sends SIGTERM to the whole process group.
func terminate(leader *os.Process) { _ = unix.Kill(-leader.Pid, unix.SIGTERM) }

// kill sends SIGKILL to the whole process group.
func kill(leader *os.Process) { _ = unix.Kill(-leader.Pid, unix.SIGKILL) }

// groupAlive reports whether the group of an ended leader still has processes.
func groupAlive(leader *os.Process) bool { return unix.Kill(-leader.Pid, 0) == nil }
