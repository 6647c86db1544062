//go:build !linux

package listen

import "net"

func newAcceptor(ln *net.TCPListener) acceptor { return netAcceptor{ln} }
