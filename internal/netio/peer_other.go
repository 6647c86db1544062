//go:build !unix

package netio

import "net"

// PeerStateOf returns the zero state: this system has no such query. A reset is
// noticed by the next read or write.
func PeerStateOf(net.Conn) PeerState { return PeerState{} }

// control does nothing: descriptors are not used on this system.
func control(net.Conn, func(fd int)) (ok bool) { return false }
