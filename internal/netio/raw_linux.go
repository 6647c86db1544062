package netio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls in this file are over at once, and the scheduler is not told
// of them. What package syscall does around each costs about as much as a short
// call, and now and then far more: told of a call while all processors had been
// idle, the runtime's monitor wakes fifty times within a millisecond.

// ReadNow reads what there is in a socket, or one datagram of it; no bytes and no
// error are an empty one, or the end of a stream.
func ReadNow(fd int, buf []byte) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// SetOption sets a socket's option that is a number.
func SetOption(fd, level, option, value int) syscall.Errno {
	number := int32(value)
	return setOption(fd, level, option, unsafe.Pointer(&number), unsafe.Sizeof(number))
}

func setOption(fd, level, option int, value unsafe.Pointer, size uintptr) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(value), size, 0)
	return errno
}

// Option is a socket's option that is a number.
func Option(fd, level, option int) (int, syscall.Errno) {
	var number int32
	size := uint32(unsafe.Sizeof(number))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&number)), uintptr(unsafe.Pointer(&size)), 0)
	return int(number), errno
}

// CloseFD closes a descriptor that nothing is written through to a disk.
func CloseFD(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// ResetDescriptor closes a socket so that its peer sees a reset.
func ResetDescriptor(fd int) {
	now := unix.Linger{Onoff: 1}
	setOption(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&now), unsafe.Sizeof(now))
	CloseFD(fd)
}

// duplicate gives another descriptor of the same.
func duplicate(fd uintptr) (int, syscall.Errno) {
	other, _, errno := unix.RawSyscall(unix.SYS_FCNTL, fd, unix.F_DUPFD_CLOEXEC, 0)
	return int(other), errno
}
