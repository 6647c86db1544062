//go:build unix

package netio

import "syscall"

func classifyErrno(errno syscall.Errno) Class {
	switch errno {
	case syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.EACCES, syscall.EPERM:
		return Local
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC, syscall.EAGAIN:
		// On Linux, a UDP connect returns EAGAIN if there is no free local port, and
		// epoll_ctl returns ENOSPC at its limit (max_user_watches of epoll(7)).
		return Exhausted
	default:
		return Remote
	}
}

func tooBig(errno syscall.Errno) bool { return errno == syscall.EMSGSIZE }
