package netio

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epollCtl adds, changes or removes a descriptor of an epoll instance; op is one
// of unix.EPOLL_CTL_*. It never blocks.
func epollCtl(epoll, op, fd int, events Events, token Token) error {
	event := unix.EpollEvent{Events: uint32(events), Fd: int32(token), Pad: int32(token >> 32)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOSPC: // /proc/sys/fs/epoll/max_user_watches is reached; "no space left on device" would mislead
		errno = unix.ENOMEM
	}
	return os.NewSyscallError("epoll_ctl", errno)
}

// epollWaitNonblock returns how many events are ready.
func epollWaitNonblock(epoll int, events []unix.EpollEvent) int {
	for {
		if n, errno := epollWait(epoll, events, 0); errno != unix.EINTR {
			return n
		}
	}
}

// epollWaitFor returns how many events are ready. It blocks until there are some, for at
// most a time of whole milliseconds, or until a signal interrupts it. Go's scheduler does
// not know that the goroutine waits. It sends a signal to stop the world, and after about
// 10 ms.
func epollWaitFor(epoll int, events []unix.EpollEvent, atMost time.Duration) int {
	n, _ := epollWait(epoll, events, atMost)
	return n
}

func epollWait(epoll int, events []unix.EpollEvent, atMost time.Duration) (n int, errno syscall.Errno) {
	ready, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(atMost.Milliseconds()), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(ready), 0
}
