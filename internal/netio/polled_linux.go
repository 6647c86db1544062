package netio

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// CheckPolled returns an error of the class [Exhausted] if Go's poller does not
// watch file. Package os ignores that failure when it makes a file from a socket,
// and every wait for the socket then returns an error.
func CheckPolled(file *os.File) error {
	if file.SetDeadline(time.Time{}) == nil { // fails if the poller does not watch the file
		return nil
	}
	return os.NewSyscallError("epoll_ctl", unix.ENOMEM) // the real reason is not available here
}
