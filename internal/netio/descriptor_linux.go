package netio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls of this package that are named Nonblock, and those in this file,
// never block, so they use RawSyscall and skip the scheduler hooks. What package
// syscall does around each call costs about as much as a short call itself, and
// at times far more: a call while all processors are idle makes the runtime's
// monitor wake fifty times within a millisecond.

// SetOption sets an integer option of a socket.
func SetOption(fd, level, option, value int) syscall.Errno {
	number := int32(value)
	return setOption(fd, level, option, unsafe.Pointer(&number), unsafe.Sizeof(number))
}

func setOption(fd, level, option int, value unsafe.Pointer, size uintptr) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(value), size, 0)
	return errno
}

// Option returns an integer option of a socket.
func Option(fd, level, option int) (int, syscall.Errno) {
	var number int32
	size := uint32(unsafe.Sizeof(number))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&number)), uintptr(unsafe.Pointer(&size)), 0)
	return int(number), errno
}

// CloseDescriptor closes a socket or a pipe. It must not be used for files,
// whose close may wait for a disk.
func CloseDescriptor(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// ResetDescriptor closes a socket so that its peer sees a reset. Bytes that were
// written and not acknowledged are lost.
func ResetDescriptor(fd int) {
	ResetOnClose(fd)
	CloseDescriptor(fd)
}

// ResetOnClose makes the close of a TCP socket reset its connection.
func ResetOnClose(fd int) {
	now := unix.Linger{Onoff: 1}
	setOption(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&now), unsafe.Sizeof(now))
}

// duplicate returns another descriptor of the same socket.
func duplicate(fd uintptr) (int, syscall.Errno) {
	other, _, errno := unix.RawSyscall(unix.SYS_FCNTL, fd, unix.F_DUPFD_CLOEXEC, 0)
	return int(other), errno
}
