package netio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Batch is the most datagrams that one system call receives or sends.
const Batch = 64

// header is the kernel's struct mmsghdr, see recvmmsg(2).
type header struct {
	unix.Msghdr
	length uint32 // bytes received or sent
}

// messagesNonblock receives or sends a list of messages by recvmmsg(2) or
// sendmmsg(2), as far as that is possible without blocking, and returns how many.
func messagesNonblock(call uintptr, fd int, list []header) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&list[0])), uintptr(len(list)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// messageNonblock is messagesNonblock for one message, by recvmsg(2) or sendmsg(2).
func messageNonblock(call uintptr, fd int, one *header) error {
	for {
		n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&one.Msghdr)), unix.MSG_DONTWAIT, 0, 0, 0)
		switch errno {
		case 0:
			one.length = uint32(n)
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
