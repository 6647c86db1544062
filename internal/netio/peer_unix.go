//go:build unix

package netio

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// PeerStateOf returns the state of a connection's peer. It is zero where conn is
// not a plain socket, and Closed once conn is closed.
func PeerStateOf(conn net.Conn) (state PeerState) {
	if _, plain := conn.(syscall.Conn); plain && !control(conn, func(fd int) { state = PeerStateOfFD(fd) }) {
		return PeerState{Closed: true} // by this side
	}
	return state
}

// PeerStateOfFD is [PeerStateOf] for a descriptor. It never blocks.
func PeerStateOfFD(fd int) PeerState {
	fds := []unix.PollFd{{Fd: int32(fd)}} // errors and hang-ups are reported without being requested
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return PeerState{}
	}
	return PeerState{
		Failed: fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0,
		Closed: fds[0].Revents&unix.POLLHUP != 0,
	}
}

// poll reports whether a descriptor has one of events, or an error. It never blocks.
func poll(fd int, events int16) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 0)
	return err == nil && n > 0
}

// control calls f with the descriptor of a plain socket; ok is false if conn is
// none or is closed.
func control(conn net.Conn, f func(fd int)) (ok bool) {
	socket, is := conn.(syscall.Conn)
	return is && withDescriptor(socket, f)
}
