package netio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Batch is how many datagrams a [Receiver] takes at once, and how many a
// system call sends at most.
const Batch = 64

// header is the kernel's struct mmsghdr, see recvmmsg(2).
type header struct {
	unix.Msghdr
	length uint32 // how many bytes were received or sent
}

// messages receives or sends all of a list that can be without waiting, by
// recvmmsg or sendmmsg, and says how many that was. The kernel looks neither
// at the headers nor at the memory behind what it returns.
//
// What does not wait is over too soon to be worth telling the scheduler of.
func messages(call uintptr, fd int, list []header) (int, error) {
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

// message is the same for one, by recvmsg or sendmsg.
func message(call uintptr, fd int, one *header) error {
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
