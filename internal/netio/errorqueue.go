package netio

import (
	"net/netip"
	"syscall"
)

// QueuedError is an ICMP error about a datagram that a socket has sent.
type QueuedError struct {
	Errno syscall.Errno  // what the message means, such as ECONNREFUSED for a port unreachable
	From  netip.Addr     // the host that sent the message
	To    netip.AddrPort // the destination of the datagram
	// Fragment: only some fragments of the datagram arrived within the time in
	// which the receiver waits for all (ICMP time exceeded, code 1).
	Fragment bool
}
