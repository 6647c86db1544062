//go:build !linux

package netio

import "net"

// EnableErrorQueue returns false: this system reports ICMP errors as errors of
// the next call only, without the host that sent them.
func EnableErrorQueue(*net.UDPConn) bool { return false }

// QueuedErrors returns nothing.
func QueuedErrors(*net.UDPConn) []QueuedError { return nil }
