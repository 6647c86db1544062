package listen

import (
	"net"
	"time"
)

// acceptor is a listening TCP socket.
type acceptor interface {
	// accept returns the next client and whether it had to wait for it. Once the
	// socket is closed, the error is net.ErrClosed. Only one goroutine may call it.
	accept() (client net.Conn, waited bool, err error)
	// prepare makes acceptQueued possible, and reports whether it is. It must not be
	// called concurrently with accept.
	prepare() bool
	// acceptQueued returns the next client if one is queued, or else nil. Any number of
	// goroutines may call it, but only after accept or prepare.
	acceptQueued() (client net.Conn, err error)
	// interrupt makes accept return os.ErrDeadlineExceeded from now on, also if it
	// waits, or ends that.
	interrupt(on bool)
	// control calls f with the descriptor, unless the socket is closed.
	control(f func(fd uintptr)) error
	Addr() net.Addr
	Close() error
}

// netAcceptor accepts clients with package net, on any system.
type netAcceptor struct{ *net.TCPListener }

func (a netAcceptor) accept() (client net.Conn, waited bool, err error) {
	client, err = a.AcceptTCP()
	return client, true, err // whether it waited is unknown
}

func (a netAcceptor) prepare() bool { return false }

func (a netAcceptor) acceptQueued() (client net.Conn, err error) { return nil, nil }

func (a netAcceptor) interrupt(on bool) { _ = a.SetDeadline(interruption(on)) }

// interruption returns the deadline that interrupts calls on a socket, or none.
func interruption(on bool) (deadline time.Time) {
	if on {
		return time.Unix(1, 0)
	}
	return time.Time{}
}

func (a netAcceptor) control(f func(fd uintptr)) error {
	raw, err := a.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(f)
}
