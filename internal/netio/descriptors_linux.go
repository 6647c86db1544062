package netio

import "golang.org/x/sys/unix"

// maxTableSize bounds the table of [GrowDescriptorTable]. An entry takes 8 bytes of
// kernel memory.
const maxTableSize = 65_536

// GrowDescriptorTable makes the kernel's table of this process's descriptors large
// enough for the process's limit, or for maxTableSize descriptors if the limit is
// higher. The kernel doubles the table when it is full. In a process with threads it
// then waits until no processor uses the old table, which takes up to tens of
// milliseconds, and so does the socket, accept or connect call that needs the entry.
// GrowDescriptorTable waits for that, once. It does nothing if it fails, because the
// table then grows as it is needed.
func GrowDescriptorTable() {
	size := descriptorLimit()
	if size == 0 || size > maxTableSize {
		size = maxTableSize
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if last, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, size-1); err == nil {
		_ = unix.Close(last)
	}
}
