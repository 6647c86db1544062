//go:build !linux && !darwin && !freebsd

package netio

import "net"

// Unacknowledged is unknown on this system.
func Unacknowledged(net.Conn) (n int, ok bool) { return 0, false }

// Unread is unknown on this system.
func Unread(net.Conn) (n int, ok bool) { return 0, false }
