package listen

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// descriptorAcceptor accepts clients as bare descriptors (see [TCPConn]). It
// saves what package net does for every client: registration with the runtime's
// poller, and the keep-alive options. Only clients that a goroutine waits for
// need these.
type descriptorAcceptor struct {
	addr *net.TCPAddr
	call acceptCall                  // of accept
	try  func(listener uintptr) bool // call.accept, bound once to save an allocation per client
	raw  syscall.RawConn             // that of file; nil until accept has called watch

	mu     sync.Mutex       // guards the fields below
	ln     *net.TCPListener // the listening socket until file is open, then nil
	file   *os.File         // the listening socket in the runtime's poller
	closed bool
	until  time.Time // the read deadline of file, see interrupt
}

// acceptCall holds the result of one non-blocking accept.
type acceptCall struct {
	fd     int
	client netip.AddrPort
	errno  syscall.Errno
	waited bool
}

func newAcceptor(ln *net.TCPListener) acceptor {
	if netio.Disabled("engine") {
		return netAcceptor{ln}
	}
	a := &descriptorAcceptor{addr: ln.Addr().(*net.TCPAddr), ln: ln}
	a.try = a.call.accept
	// Accepted sockets inherit TCP_NODELAY, see tcp(7). The relay sends all that
	// it has received at once, so Nagle's algorithm would only add latency.
	// They also inherit keep-alive, which costs no system call per client then.
	_ = a.control(func(fd uintptr) {
		netio.SetNoDelay(int(fd))
		netio.SetKeepAlive(int(fd), netio.DefaultKeepAlive)
	})
	return a
}

// watch puts the listening socket into the runtime's poller in a form that can
// be waited for. Package net accepts clients only as its own connections.
func (a *descriptorAcceptor) watch() (syscall.RawConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, net.ErrClosed
	}
	file, err := a.ln.File() // duplicates the descriptor
	if err != nil {
		return nil, err
	}
	err = netio.CheckPolled(file)
	var raw syscall.RawConn
	if err == nil {
		raw, err = file.SyscallConn()
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	_ = a.ln.Close()
	_ = file.SetReadDeadline(a.until)
	a.file, a.ln = file, nil
	return raw, nil
}

// interrupt implements acceptor.
func (a *descriptorAcceptor) interrupt(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until = interruption(on)
	if a.file != nil {
		_ = a.file.SetReadDeadline(a.until)
	}
}

// Addr implements acceptor.
func (a *descriptorAcceptor) Addr() net.Addr { return a.addr }

// Close implements acceptor.
func (a *descriptorAcceptor) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.ln != nil {
		return a.ln.Close()
	}
	return a.file.Close()
}

func (a *descriptorAcceptor) isClosed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}

func (a *descriptorAcceptor) control(f func(fd uintptr)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var socket syscall.Conn = a.file
	if a.ln != nil {
		socket = a.ln
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(f)
}

// accept implements acceptor. The first call, and each one after it has failed,
// prepares the socket.
func (a *descriptorAcceptor) accept() (client net.Conn, waited bool, err error) {
	if err := a.tryPrepare(); err != nil {
		return nil, true, a.failed(err)
	}
	a.call.waited = false
	if err := a.raw.Read(a.try); err != nil {
		return nil, true, a.failed(err)
	}
	if a.call.errno != 0 {
		return nil, a.call.waited, a.failed(os.NewSyscallError("accept4", a.call.errno))
	}
	return a.client(&a.call), a.call.waited, nil
}

// failed returns the error of accept in the form that package net has.
func (a *descriptorAcceptor) failed(err error) error {
	if a.isClosed() {
		err = net.ErrClosed
	}
	return &net.OpError{Op: "accept", Net: "tcp", Addr: a.addr, Err: err}
}

// prepare implements acceptor.
func (a *descriptorAcceptor) prepare() bool { return a.tryPrepare() == nil }

func (a *descriptorAcceptor) tryPrepare() (err error) {
	if a.raw == nil {
		a.raw, err = a.watch()
	}
	return err
}

// queuedCalls are the calls of acceptQueued, pooled because each has a bound function.
var queuedCalls = sync.Pool{New: func() any {
	q := new(queuedCall)
	q.try = func(listener uintptr) { q.accept(listener) }
	return q
}}

// queuedCall is a call of acceptQueued.
type queuedCall struct {
	acceptCall
	try func(listener uintptr) // accept
}

// acceptQueued implements acceptor.
func (a *descriptorAcceptor) acceptQueued() (client net.Conn, err error) {
	q := queuedCalls.Get().(*queuedCall)
	defer queuedCalls.Put(q)
	if a.raw.Control(q.try) != nil {
		return nil, nil // it is closed
	}
	switch q.errno {
	case 0:
		return a.client(&q.acceptCall), nil
	case syscall.EAGAIN:
		return nil, nil
	}
	return nil, a.failed(os.NewSyscallError("accept4", q.errno))
}

// client returns the client that a call has accepted.
func (a *descriptorAcceptor) client(call *acceptCall) *TCPConn {
	c := &TCPConn{fd: int32(call.fd), remote: tcpAddr(call.client), local: a.addr}
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
