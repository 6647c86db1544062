//go:build unix

package netio

import (
	"math"
	"syscall"

	"golang.org/x/sys/unix"
)

// descriptorLimit returns RLIMIT_NOFILE, or 0 if it is unknown or unlimited.
func descriptorLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || uint64(limit.Cur) > math.MaxInt32 {
		return 0
	}
	return int(limit.Cur)
}

// HasDescriptor reports whether a TCP relay finds a descriptor that is not
// reserved. It opens one and closes it.
func HasDescriptor() bool {
	syscall.ForkLock.RLock() // a child must not inherit it
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return !OutOfDescriptors(err)
	}
	_ = unix.Close(fd)
	return !Reserved(fd)
}
