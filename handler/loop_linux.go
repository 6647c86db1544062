package handler

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// NewEngine makes an [Engine] that carries the sockets of all sessions on a
// few event loops, about one a processor: no goroutine, no buffer and no timer
// for a session at rest. A loop runs while it has sockets, and a little longer.
func NewEngine() Engine {
	if netio.Disabled("engine") {
		return goroutines{}
	}
	return newLoops(runtime.GOMAXPROCS(0))
}

type loops struct {
	all     []*loop // set once, as is tcp
	next    atomic.Uint32
	tcp     []*tcpLoop
	nextTCP atomic.Uint32
	spares  spares

	probe sync.Once // guards can
	can   netio.Features
}

func newLoops(n int) *loops {
	e := &loops{
		all:    make([]*loop, n),
		tcp:    make([]*tcpLoop, n),
		spares: spares{most: sparesAtMost()},
	}
	pipes := newPipes()
	for i := range n {
		e.all[i], e.tcp[i] = new(loop), &tcpLoop{pipes: pipes}
	}
	return e
}

// Open implements [Engine].
func (e *loops) Open(addr netip.AddrPort, sink Sink) (Socket, error) {
	if s := e.reuse(addr, sink, restFor); s != nil {
		return s, nil
	}
	s, err := e.open(addr, sink)
	if err != nil && netio.Classify(err) == netio.Exhausted {
		if s := e.reuse(addr, sink, 0); s != nil {
			return s, nil
		}
		if e.spares.drop(0) { // those of the other family have what is lacking
			s, err = e.open(addr, sink)
		}
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(addr), Err: err}
	}
	return s, nil
}

// open makes a socket.
func (e *loops) open(addr netip.AddrPort, sink Sink) (*loopSocket, error) {
	fd, err := netio.ConnectUDP(addr)
	if err != nil {
		return nil, err
	}
	s := &loopSocket{spares: &e.spares, fd: fd, ipv4: addr.Addr().Unmap().Is4(), sink: sink}
	s.loop = e.all[e.next.Add(1)%uint32(len(e.all))]
	s.sending.Init(e.abilities(fd))
	if err := s.loop.add(s); err != nil {
		netio.CloseDescriptor(fd)
		return nil, err
	}
	return s, nil
}

// abilities are asked of the first socket.
func (e *loops) abilities(fd int) netio.Features {
	e.probe.Do(func() { e.can = netio.ProbeFeatures(fd) })
	return e.can
}

// lingerFor is how long a loop waits for another socket after its last one.
const lingerFor = time.Second

// loop waits for many sockets on one goroutine. It waits in Go's own poller,
// which waits for the loop's epoll as it does for any descriptor: a goroutine
// is woken sooner than a thread that sleeps in a system call, and is no thread
// more.
type loop struct {
	mu      sync.Mutex    // guards what follows
	sockets []*loopSocket // each at its place; nil: free
	free    []int32       // the free places
	serial  uint32        // of the latest socket
	poll    *os.File      // the epoll of the run; nil: there is none
	epoll   int           // its descriptor
	lingers bool          // stopIdle will be called
}

func (l *loop) add(s *loopSocket) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.poll == nil {
		if err := l.startLocked(); err != nil {
			return err
		}
	}
	l.serial++
	s.serial = l.serial
	if last := len(l.free) - 1; last >= 0 {
		s.place, l.free = l.free[last], l.free[:last]
	} else {
		s.place, l.sockets = int32(len(l.sockets)), append(l.sockets, nil)
	}
	if err := addToEpoll(l.epoll, s.fd, unix.EpollEvent{Events: unix.EPOLLIN, Fd: s.place, Pad: int32(s.serial)}); err != nil {
		l.freeLocked(s.place)
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.sockets[s.place] = s
	return nil
}

// freeLocked makes a place free for another socket.
func (l *loop) freeLocked(place int32) {
	l.sockets[place] = nil
	l.free = append(l.free, place)
	if len(l.free) < len(l.sockets) {
		return
	}
	l.sockets, l.free = l.sockets[:0], l.free[:0]
	if !l.lingers {
		l.lingers = true
		time.AfterFunc(lingerFor, l.stopIdle)
	}
}

func (l *loop) startLocked() error {
	receiver, err := netio.NewReceiver(false)
	if err != nil {
		return err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		receiver.Free()
		return os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(epoll, true) // has package os hand it to the poller
	poll := os.NewFile(uintptr(epoll), "epoll")
	raw, err := poll.SyscallConn()
	if err == nil {
		err = poll.SetDeadline(time.Time{}) // does nothing, but tells whether the poller took it
	}
	if err != nil {
		receiver.Free()
		_ = poll.Close()
		return os.NewSyscallError("epoll", unix.ENOMEM)
	}
	l.poll, l.epoll = poll, epoll
	go l.run(poll, raw, receiver) // ends when stopIdle closes poll
	return nil
}

// stopIdle ends the run if there is nothing to wait for. What is added from
// now on begins another.
func (l *loop) stopIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lingers = false
	if l.poll != nil && len(l.sockets) == 0 {
		_ = l.poll.Close()
		l.poll = nil
		l.sockets, l.free = nil, nil
	}
}

// remove forgets a socket that is about to be closed, by which the kernel's
// epoll forgets it too.
func (l *loop) remove(s *loopSocket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(s)
}

func (l *loop) removeLocked(s *loopSocket) bool {
	if int(s.place) >= len(l.sockets) || l.sockets[s.place] != s {
		return false
	}
	l.freeLocked(s.place)
	return true
}

// giveUp forgets a socket that stays open.
func (l *loop) giveUp(s *loopSocket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.removeLocked(s) {
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, s.fd, nil)
	}
}

// find replaces events by their sockets. Some may be gone, and their places
// others': an event may be older than what it is found by.
func (l *loop) find(events []unix.EpollEvent, sockets []*loopSocket) []*loopSocket {
	l.mu.Lock()
	defer l.mu.Unlock()
	sockets = sockets[:0]
	for _, event := range events {
		if int(event.Fd) >= len(l.sockets) {
			continue
		}
		if s := l.sockets[event.Fd]; s != nil && s.serial == uint32(event.Pad) {
			sockets = append(sockets, s)
		}
	}
	return sockets
}

// run brings what comes in to the sockets' sinks.
func (l *loop) run(poll *os.File, raw syscall.RawConn, receiver *netio.Receiver) {
	defer receiver.Free()
	events, sockets := make([]unix.EpollEvent, 256), make([]*loopSocket, 0, 256)
	n := 0
	look := func(epoll uintptr) bool {
		n = lookAtEpoll(int(epoll), events)
		return n > 0
	}
	for turn := uint32(1); raw.Read(look) == nil; turn++ {
		sockets = l.find(events[:n], sockets)
		for _, s := range sockets {
			s.receive(receiver, turn)
		}
		clear(sockets) // what is closed is not held on to
	}
}
