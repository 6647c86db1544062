package netio

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// TooBig reports whether err means that a datagram is larger than the path to the
// peer accepts. The peer is not at fault.
func TooBig(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && tooBig(errno)
}

// DefaultKeepAlive is the idle time and interval of TCP keep-alive probes that
// package net uses, and that listening sockets of this project pass on to the
// connections that they accept.
const DefaultKeepAlive = 15 * time.Second

// keepAliveProbes is how many unanswered probes end a connection.
const keepAliveProbes = 9

// KeepAlive returns a configuration of package net with interval as the idle time
// and as the interval of probes, or without probes if it is 0.
func KeepAlive(interval time.Duration) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: interval > 0, Idle: interval, Interval: interval, Count: keepAliveProbes}
}

// Reset closes conn so that the peer sees a reset (RST) and does not take a
// truncated stream for a complete one. Connections other than TCP have no reset
// and are just closed.
func Reset(conn net.Conn) {
	if tcp, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0) // fails only if the socket is closed already
	}
	_ = conn.Close()
}

// withDescriptor calls f with the descriptor of a file or socket; ok is false if it is
// closed.
func withDescriptor(of syscall.Conn, f func(fd int)) (ok bool) {
	raw, err := of.SyscallConn()
	return err == nil && raw.Control(func(fd uintptr) { f(int(fd)) }) == nil
}
