//go:build !linux

package listen

import (
	"errors"
	"net"
)

// askLocal: this system is not asked; on a wildcard listener answers leave
// from the address that its routes choose.
func askLocal(*net.UDPConn) error { return errors.ErrUnsupported }
