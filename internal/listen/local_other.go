//go:build !linux

package listen

import (
	"errors"
	"net"
	"net/netip"
)

const localSpace = 0

// askLocal: this system is not asked; on a wildcard listener answers leave
// from the address that its routes choose.
func askLocal(*net.UDPConn) error { return errors.ErrUnsupported }

func localOf([]byte) netip.Addr { return netip.Addr{} }

func fromLocal(*net.UDPConn, netip.Addr) []byte { return nil }
