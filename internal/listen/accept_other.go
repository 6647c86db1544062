//go:build !linux

package listen

import "net"

func newAcceptor(ln *net.TCPListener) (acceptor, error) { return netAcceptor{ln}, nil }
