//go:build !linux

package netio

import "net/netip"

// SendsSYN reports whether a TCP connection to addr leaves this machine. This system
// does not tell, so the answer is no.
func SendsSYN(netip.AddrPort) bool { return false }
