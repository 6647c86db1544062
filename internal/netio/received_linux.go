package netio

import "net/netip"

// SendsSYN reports whether a TCP connection to addr leaves this machine. It makes
// one, closes it at once, and never blocks. It tells the origin of a [Local] error
// of package net, which does not say when the error occurred.
func SendsSYN(addr netip.AddrPort) bool {
	fd, _, err := ConnectTCPNonblock(addr)
	if err != nil {
		return Classify(err) == Remote
	}
	SetQuickAck(fd)
	CloseDescriptor(fd)
	return true
}
