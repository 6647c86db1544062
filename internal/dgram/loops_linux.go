package dgram

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// NewEngine returns an [Engine] that serves all sockets from a few event loops,
// about one per processor. An idle socket holds no goroutine, buffer or timer. A
// loop runs while it has sockets, and for a linger time after the last one.
func NewEngine() Engine {
	if netio.Disabled("engine") {
		return Goroutines{}
	}
	return newLoops(runtime.GOMAXPROCS(0))
}

// poller is one event loop.
type poller = netio.Poller[*loopSocket]

// loops is the [Engine] of event loops.
type loops struct {
	pollers []*poller // set once
	next    atomic.Uint32
	spares  spares

	probe    sync.Once // guards features
	features netio.Features
}

func newLoops(n int) *loops {
	e := &loops{
		pollers: make([]*poller, n),
		spares:  spares{limit: spareLimit()},
	}
	for i := range e.pollers {
		e.pollers[i] = netio.NewPoller(newRun)
	}
	return e
}

// Open implements [Engine].
func (e *loops) Open(addr netip.AddrPort, sink Sink) (Socket, error) {
	for tries := 0; ; tries++ {
		s, err := e.connect(addr)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(addr), Err: err}
		}
		if tries == portTries || ports.rested(s.port) {
			s.setSink(sink)
			return s, nil
		}
		s.release()
	}
}

// connect returns a spare socket or a new one, with a sink that discards.
func (e *loops) connect(addr netip.AddrPort) (*loopSocket, error) {
	if s := e.reuse(addr, pauseTime); s != nil {
		return s, nil
	}
	s, err := e.open(addr)
	if err != nil && netio.Classify(err) == netio.Exhausted {
		if s := e.reuse(addr, 0); s != nil {
			return s, nil
		}
		if e.spares.closeKept(0) { // those of the other family hold descriptors too
			s, err = e.open(addr)
		}
	}
	return s, err
}

// open returns a new socket, with a sink that discards.
func (e *loops) open(addr netip.AddrPort) (*loopSocket, error) {
	fd, port, err := netio.ConnectUDP(addr)
	if err != nil {
		return nil, err
	}
	s := &loopSocket{spares: &e.spares, fd: fd, ipv4: addr.Addr().Unmap().Is4(), port: port, sink: discard{}}
	s.poller = e.pollers[e.next.Add(1)%uint32(len(e.pollers))]
	s.sender.Init(e.probeFeatures(fd))
	if err := s.join(); err != nil {
		netio.CloseDescriptor(fd)
		return nil, err
	}
	return s, nil
}

// probeFeatures returns the kernel's features, which it probes on the first socket.
func (e *loops) probeFeatures(fd int) netio.Features {
	e.probe.Do(func() { e.features = netio.ProbeFeatures(fd) })
	return e.features
}

// run is one run of an event loop, see [netio.Run].
type run struct {
	receiver *netio.Receiver
	turn     uint32 // number of the current turn, from 1
}

func newRun() (netio.Run[*loopSocket], error) {
	receiver, err := netio.NewReceiver(false)
	if err != nil {
		return nil, err
	}
	return &run{receiver: receiver}, nil
}

// Turn implements [netio.Run]: it receives from each socket that is readable or
// has errors.
func (r *run) Turn(ready []netio.Ready[*loopSocket]) (more bool) {
	r.turn++
	for i := range ready {
		s := ready[i].Value
		if ready[i].Events&netio.Failed != 0 && s.receiveErrors() && ready[i].Events&netio.Readable == 0 {
			continue
		}
		s.receive(r.receiver, r.turn)
	}
	return false
}

// End implements [netio.Run].
func (r *run) End() { r.receiver.Free() }
