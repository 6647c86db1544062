//go:build !linux

package netio

import (
	"errors"
	"net"
)

// EnablePacketInfo fails: the local address of a datagram is not read on this
// system. Answers of a socket bound to a wildcard address leave from the address
// that the routing table chooses.
func EnablePacketInfo(*net.UDPConn) error { return errors.ErrUnsupported }
