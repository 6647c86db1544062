package netio

import (
	"errors"
	"net"
	"syscall"
)

// TooBig says whether err means that a datagram exceeds what the way to the
// peer takes in one piece: the datagram's fault, not the peer's.
func TooBig(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && tooBig(errno)
}

// Reset closes conn so that the peer sees a reset (RST) and not an orderly end
// that would make what was cut off look whole. Only TCP has resets; anything
// else is closed.
func Reset(conn net.Conn) {
	if tcp, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0) // fails only on a socket that is gone already
	}
	_ = conn.Close()
}
