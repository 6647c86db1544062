package handler

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// NewEngine makes an [Engine] that carries the sockets of all sessions on a
// few event loops, about one a processor: no goroutine, no buffer and no timer
// for a session at rest. A loop runs while it has sockets.
func NewEngine() Engine {
	if netio.Disabled("engine") {
		return goroutines{}
	}
	e := &loops{all: make([]*loop, runtime.GOMAXPROCS(0)), tcp: make([]*tcpLoop, runtime.GOMAXPROCS(0))}
	pipes := newPipes()
	for i := range e.all {
		e.all[i] = &loop{sockets: make(map[int32]*loopSocket)}
		e.tcp[i] = &tcpLoop{pipes: pipes}
	}
	return e
}

type loops struct {
	all     []*loop // set once, as is tcp
	next    atomic.Uint32
	tcp     []*tcpLoop
	nextTCP atomic.Uint32
}

// Open implements [Engine].
func (e *loops) Open(addr netip.AddrPort, sink Sink) (Socket, error) {
	l := e.all[e.next.Add(1)%uint32(len(e.all))]
	fd, err := connectUDP(addr)
	if err == nil {
		s := &loopSocket{loop: l, fd: fd, sink: sink}
		if err = l.add(s); err == nil {
			return s, nil
		}
		_ = unix.Close(fd)
	}
	return nil, &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(addr), Err: err}
}

// connectUDP makes a socket that does not block and that only addr can send to.
func connectUDP(addr netip.AddrPort) (fd int, err error) {
	var to unix.Sockaddr
	family := unix.AF_INET
	if ip := addr.Addr().Unmap(); ip.Is4() {
		to = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}
	} else {
		family = unix.AF_INET6
		to6 := &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16()}
		if to6.ZoneId, err = zoneID(ip.Zone()); err != nil {
			return -1, err
		}
		to = to6
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// As package net does: a backend may be a broadcast address.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	if err := unix.Connect(fd, to); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// zoneID is the number of the interface that a zone names, or is.
func zoneID(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return uint32(i.Index), nil
}

// loop waits for many sockets on one goroutine, which runs while there are any.
// It waits in Go's own poller, which waits for the loop's epoll as it does for
// any descriptor: a goroutine is woken sooner than a thread that sleeps in a
// system call, and is no thread more.
type loop struct {
	mu      sync.Mutex // guards what follows
	sockets map[int32]*loopSocket
	poll    *os.File // the epoll of the run; nil: there is none
	epoll   int      // its descriptor
}

// loopSocket is a connected UDP socket in a loop. Send and Close are called
// under its session's lock and so never together.
type loopSocket struct {
	loop *loop // set once, as are fd and sink
	fd   int
	sink Sink

	failures int         // errors in a row; the loop's own
	broken   atomic.Bool // given up after too many of them

	mu     sync.Mutex // held while fd is read, so that it is not closed, and another's, meanwhile
	closed bool       // guarded by mu
}

func (l *loop) add(s *loopSocket) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.poll == nil {
		if err := l.startLocked(); err != nil {
			return err
		}
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.fd)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, s.fd, &event); err != nil {
		l.stopLocked()
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.sockets[int32(s.fd)] = s
	return nil
}

func (l *loop) startLocked() error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(epoll, true) // has package os hand it to the poller
	poll := os.NewFile(uintptr(epoll), "epoll")
	raw, err := poll.SyscallConn()
	if err == nil {
		err = poll.SetDeadline(time.Time{}) // does nothing, but tells whether the poller took it
	}
	if err != nil {
		_ = poll.Close()
		return os.NewSyscallError("epoll", unix.ENOMEM)
	}
	l.poll, l.epoll = poll, epoll
	go l.run(poll, raw) // ends when stopLocked closes poll
	return nil
}

// stopLocked ends the run if there is nothing left to wait for. What is added
// from now on begins another.
func (l *loop) stopLocked() {
	if l.poll != nil && len(l.sockets) == 0 {
		_ = l.poll.Close()
		l.poll = nil
	}
}

func (l *loop) remove(s *loopSocket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sockets[int32(s.fd)] != s {
		return
	}
	delete(l.sockets, int32(s.fd))
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, s.fd, nil)
	l.stopLocked()
}

// socket is whose event a run has got; nil if it is gone. Of a run that was
// stopped all are: what has its descriptors now is another run's.
func (l *loop) socket(run *os.File, fd int32) *loopSocket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.poll != run {
		return nil
	}
	return l.sockets[fd]
}

// run brings what comes in to the sockets' sinks.
func (l *loop) run(poll *os.File, raw syscall.RawConn) {
	events := make([]unix.EpollEvent, 256)
	buf := netio.GetBuffer()
	defer buf.Free()
	n := 0
	look := func(epoll uintptr) bool {
		for {
			var err error
			if n, err = unix.EpollWait(int(epoll), events, 0); !errors.Is(err, unix.EINTR) {
				return n > 0
			}
		}
	}
	for raw.Read(look) == nil {
		for _, event := range events[:n] {
			if s := l.socket(poll, event.Fd); s != nil {
				s.receive(buf)
			}
		}
	}
}

// receiveAtOnce is how many datagrams of one socket are taken before the
// others have their turn.
const receiveAtOnce = 64

func (s *loopSocket) receive(buf *netio.Buffer) {
	for range receiveAtOnce {
		n, err := s.read(buf)
		switch {
		case err == nil:
			s.failures = 0
			s.sink.Datagram(buf[:n])
		case errors.Is(err, unix.EAGAIN), errors.Is(err, net.ErrClosed):
			return
		default:
			s.sink.Failed(os.NewSyscallError("read", err))
			if s.failures++; s.failures == maxFailures {
				s.loop.remove(s)
				s.broken.Store(true) // whoever sends next is told
				return
			}
		}
	}
}

func (s *loopSocket) read(buf *netio.Buffer) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	for {
		n, err := unix.Read(s.fd, buf[:])
		switch {
		case err == nil:
			return n, nil
		case !errors.Is(err, unix.EINTR):
			return 0, err
		}
	}
}

// Send implements [Socket].
func (s *loopSocket) Send(datagram []byte) error {
	if s.broken.Load() {
		return net.ErrClosed
	}
	for {
		_, err := unix.Write(s.fd, datagram)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR): // EAGAIN too: there is no room for it, and nobody waits
			return os.NewSyscallError("write", err)
		}
	}
}

// Close implements [Socket].
func (s *loopSocket) Close() {
	s.loop.remove(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	_ = unix.Close(s.fd)
}
