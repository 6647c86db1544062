package netio

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// StartSibling starts a command whose process becomes a child of this process's
// parent. Do not call [exec.Cmd.Wait] then: the parent gets the exit status. Use
// [AwaitExit]. A process with the PID 1 cannot start a sibling.
func StartSibling(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_PARENT
	return cmd.Start()
}

// AwaitExit blocks until a process has exited, which need not be a child of this one.
// The error is os.ErrNoHandle where the kernel has no handles of processes.
func AwaitExit(process *os.Process) (err error) {
	handleErr := process.WithHandle(func(handle uintptr) {
		list := []unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}
		for {
			if _, err = unix.Poll(list, -1); err != unix.EINTR {
				return
			}
		}
	})
	if handleErr != nil {
		return handleErr
	}
	return os.NewSyscallError("poll", err)
}
