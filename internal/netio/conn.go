package netio

import (
	"errors"
	"net"
	"syscall"
)

// TooBig reports whether err means that a datagram is larger than the path to the
// peer accepts. The peer is not at fault.
func TooBig(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && tooBig(errno)
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
