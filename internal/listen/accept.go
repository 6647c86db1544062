package listen

import "net"

// acceptor is a listening TCP socket.
type acceptor interface {
	// accept waits for a client, if there is none yet. Once the socket is closed
	// it is net.ErrClosed. It is called by one goroutine.
	accept() (client net.Conn, waited bool, err error)
	// beside makes what another goroutine accepts clients by that are waiting
	// already. It gives nil where there are none, or this cannot tell.
	beside() (accept func() net.Conn)
	Addr() net.Addr
	Close() error
}

// plainAcceptor accepts clients as package net does, on any system.
type plainAcceptor struct{ *net.TCPListener }

func (a plainAcceptor) accept() (client net.Conn, waited bool, err error) {
	client, err = a.AcceptTCP()
	return client, true, err // or it may have
}

func (a plainAcceptor) beside() (accept func() net.Conn) { return func() net.Conn { return nil } }
