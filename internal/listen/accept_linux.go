package listen

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// descriptorAcceptor accepts clients as bare descriptors (see [TCPConn]). It
// saves what package net does for every client: registration with the runtime's
// poller, and the keep-alive options. Only clients that a goroutine waits for
// need these.
type descriptorAcceptor struct {
	file *os.File // the listening socket, in the runtime's poller
	raw  syscall.RawConn
	addr *net.TCPAddr
	call acceptCall // of accept
}

// acceptCall holds the result of one non-blocking accept.
type acceptCall struct {
	try    func(listener uintptr) bool // acceptCall.accept, bound once to save an allocation per client
	fd     int
	client netip.AddrPort
	errno  syscall.Errno
	waited bool
}

func newAcceptor(ln *net.TCPListener) (acceptor, error) {
	if netio.Disabled("engine") {
		return netAcceptor{ln}, nil
	}
	file, err := ln.File()
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	// Accepted sockets inherit TCP_NODELAY, see tcp(7). The relay sends all that
	// it has received at once, so Nagle's algorithm would only add latency.
	// They also inherit keep-alive, which costs no system call per client then.
	_ = raw.Control(func(fd uintptr) {
		netio.SetNoDelay(int(fd))
		netio.SetKeepAlive(int(fd), netio.DefaultKeepAlive)
	})
	a := &descriptorAcceptor{file: file, raw: raw, addr: ln.Addr().(*net.TCPAddr)}
	a.call.try = a.call.accept
	_ = ln.Close() // file has a descriptor of its own
	return a, nil
}

// Addr implements acceptor.
func (a *descriptorAcceptor) Addr() net.Addr { return a.addr }

// Close implements acceptor.
func (a *descriptorAcceptor) Close() error { return a.file.Close() }

func (a *descriptorAcceptor) accept() (client net.Conn, waited bool, err error) {
	a.call.waited = false
	if a.raw.Read(a.call.try) != nil { // without a deadline, the only error is a closed file
		return nil, true, &net.OpError{Op: "accept", Net: "tcp", Addr: a.addr, Err: net.ErrClosed}
	}
	if a.call.errno != 0 {
		return nil, a.call.waited, &net.OpError{Op: "accept", Net: "tcp", Addr: a.addr, Err: os.NewSyscallError("accept4", a.call.errno)}
	}
	return a.client(&a.call), a.call.waited, nil
}

func (a *descriptorAcceptor) helper() (acceptQueued func() net.Conn) {
	var call acceptCall
	queued := false
	try := func(listener uintptr) { queued = call.accept(listener) }
	return func() net.Conn {
		if a.raw.Control(try) != nil || !queued || call.errno != 0 {
			return nil // accept meets a lasting error too, and reports it
		}
		return a.client(&call)
	}
}

// client returns the client that a call has accepted.
func (a *descriptorAcceptor) client(call *acceptCall) *TCPConn {
	c := &TCPConn{fd: call.fd, remote: tcpAddr(call.client), local: a.addr}
	if a.addr.IP.IsUnspecified() {
		if local, err := netio.LocalAddr(call.fd); err == nil {
			c.local = tcpAddr(local)
		}
	}
	return c
}

// accept accepts a client without blocking. It returns false if none is queued;
// then raw.Read waits and calls it again.
func (call *acceptCall) accept(listener uintptr) bool {
	call.fd, call.client, call.errno = netio.AcceptNonblock(int(listener))
	if call.errno == syscall.EAGAIN {
		call.waited = true
		return false
	}
	return true
}

// tcpAddr returns an address in the form of package net.
func tcpAddr(at netip.AddrPort) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netio.ZoneName(at.Addr()), at.Port()))
}
