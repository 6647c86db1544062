package listen

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// lightAcceptor accepts clients as descriptors and no more: what package net
// does for each, its poller and the options for keep-alive, is for those who
// wait for a client in a goroutine.
type lightAcceptor struct {
	file *os.File // the socket, in Go's poller
	raw  syscall.RawConn
	addr *net.TCPAddr
	one  acceptance // of accept
}

// acceptance is one call of accept4(2) and what came of it.
type acceptance struct {
	try    func(listener uintptr) bool // accept, bound once
	fd     int
	from   unix.RawSockaddrInet6
	errno  syscall.Errno
	waited bool
}

func newAcceptor(ln *net.TCPListener) (acceptor, error) {
	if netio.Disabled("engine") {
		return plainAcceptor{ln}, nil
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
	_ = raw.Control(func(fd uintptr) {
		// Clients inherit it: tcp(7). A relay sends on what it gets when it gets it.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	})
	a := &lightAcceptor{file: file, raw: raw, addr: ln.Addr().(*net.TCPAddr)}
	a.one.try = a.one.accept
	_ = ln.Close() // the socket is the file's from now on
	return a, nil
}

// Addr implements acceptor.
func (a *lightAcceptor) Addr() net.Addr { return a.addr }

// Close implements acceptor.
func (a *lightAcceptor) Close() error { return a.file.Close() }

func (a *lightAcceptor) accept() (client net.Conn, waited bool, err error) {
	a.one.waited = false
	if a.raw.Read(a.one.try) != nil { // without a deadline that is all that can be
		return nil, true, &net.OpError{Op: "accept", Net: "tcp", Addr: a.addr, Err: net.ErrClosed}
	}
	if a.one.errno != 0 {
		return nil, a.one.waited, &net.OpError{Op: "accept", Net: "tcp", Addr: a.addr, Err: os.NewSyscallError("accept4", a.one.errno)}
	}
	return a.client(&a.one), a.one.waited, nil
}

func (a *lightAcceptor) beside() (accept func() net.Conn) {
	var one acceptance
	found := false
	try := func(listener uintptr) { found = one.accept(listener) }
	return func() net.Conn {
		if a.raw.Control(try) != nil || !found || one.errno != 0 {
			return nil // what is wrong is for accept to tell
		}
		return a.client(&one)
	}
}

// client is who was accepted.
func (a *lightAcceptor) client(one *acceptance) *TCPConn {
	c := &TCPConn{fd: one.fd, remote: net.TCPAddrFromAddrPort(addrOf(&one.from)), local: a.addr}
	if a.addr.IP.IsUnspecified() {
		size := uint32(unix.SizeofSockaddrInet6)
		if _, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(one.fd), uintptr(unsafe.Pointer(&one.from)), uintptr(unsafe.Pointer(&size))); errno == 0 {
			c.local = net.TCPAddrFromAddrPort(addrOf(&one.from))
		}
	}
	return c
}

// accept takes a client if there is one; its false makes the runtime wait.
func (one *acceptance) accept(listener uintptr) bool {
	for {
		size := uint32(unix.SizeofSockaddrInet6)
		fd, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, listener, uintptr(unsafe.Pointer(&one.from)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case unix.EAGAIN:
			one.waited = true
			return false
		case unix.EINTR, unix.ECONNABORTED: // the next one, then
		default:
			one.fd, one.errno = int(fd), errno
			return true
		}
	}
}

// addrOf reads an address as the kernel writes it.
func addrOf(raw *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:])
	if raw.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(raw)).Addr), port)
	}
	addr := netip.AddrFrom16(raw.Addr).Unmap()
	if raw.Scope_id != 0 && addr.Is6() {
		addr = addr.WithZone(zoneName(int(raw.Scope_id)))
	}
	return netip.AddrPortFrom(addr, port)
}

// zoneName is an interface's name, as package net has it in addresses.
func zoneName(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return strconv.Itoa(index)
}
