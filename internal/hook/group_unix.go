//go:build unix

package hook

import (
	"os"
	"os/exec"
	"syscall"
)

// setGroup makes a command the leader of a new process group.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// terminate sends SIGTERM to the whole process group.
func terminate(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGTERM) }

// kill sends SIGKILL to the whole process group.
func kill(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGKILL) }

// groupAlive reports whether the group of an ended leader still has processes.
func groupAlive(leader *os.Process) bool { return syscall.Kill(-leader.Pid, 0) == nil }
