package listen

import "net"

// acceptor is a listening TCP socket.
type acceptor interface {
	// accept waits for a client. Once the socket is closed it is net.ErrClosed.
	accept() (net.Conn, error)
	Addr() net.Addr
	Close() error
}

// plainAcceptor accepts clients as package net does, on any system.
type plainAcceptor struct{ *net.TCPListener }

func (a plainAcceptor) accept() (net.Conn, error) { return a.AcceptTCP() }
