package netio

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// Winsock has error numbers of its own, in addition to those that package syscall
// defines.
func classifyErrno(errno syscall.Errno) Class {
	switch errno {
	case windows.WSAENETUNREACH, windows.WSAENETDOWN, windows.WSAEADDRNOTAVAIL, windows.WSAEAFNOSUPPORT, windows.WSAEACCES:
		return Local
	case windows.WSAEMFILE, windows.WSAENOBUFS:
		return Exhausted
	default:
		return Remote
	}
}

func tooBig(errno syscall.Errno) bool { return errno == windows.WSAEMSGSIZE }
