package dgram

import (
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// NewEngine returns an [Engine] that serves all sockets from a few event loops. An
// idle socket holds no goroutine, buffer or timer. A loop runs while it has
// sockets, and for a linger time after the last one.
//
// There is one loop for two processors, which reads the answers of the backends and
// the clients' sockets of [loops.Watch], and another one for the sockets of
// [loops.WatchBusy]. With more busy goroutines than processors, a goroutine whose
// sockets are ready waits until another one has nothing to do.
//
// budget is the process's; nil: no loop keeps its processor while it waits.
func NewEngine(budget *netio.ProcessorBudget) Engine {
	if netio.Disabled("engine") {
		return Goroutines{}
	}
	return newLoops(max(runtime.GOMAXPROCS(0)/2, 1), budget)
}

// poller is one event loop.
type poller = netio.Poller[member]

// member is what an event loop serves: a [loopSocket] or a watched socket.
type member interface {
	// handle handles the events of one turn.
	handle(r *run, events netio.Events)
}

// watched is a socket of [loops.Watch].
type watched struct{ readable func() }

func (w *watched) handle(*run, netio.Events) { w.readable() }

// loops is the [Engine] of event loops.
type loops struct {
	pollers []*poller // of all sockets but those of WatchBusy; set once, as is busy
	busy    []*poller // of WatchBusy, as many
	next    atomic.Uint32
	spares  spares

	probe    sync.Once // guards features
	features netio.Features
}

func newLoops(n int, budget *netio.ProcessorBudget) *loops {
	e := &loops{
		pollers: make([]*poller, n),
		busy:    make([]*poller, n),
		spares:  spares{limit: spareLimit()},
	}
	for i := range e.pollers {
		e.pollers[i], e.busy[i] = netio.NewPoller(1, budget, newRun), netio.NewPoller(1, budget, newRun)
	}
	return e
}

// StopWhenIdle keeps no spare sockets any more and makes each loop stop as soon as
// it has no sockets, without a linger time. Tests use it to check that nothing is
// left running.
func (e *loops) StopWhenIdle() {
	e.spares.keepNone()
	for _, p := range slices.Concat(e.pollers, e.busy) {
		p.StopWhenIdle()
	}
}

// Watch makes an event loop call readable while the socket fd has datagrams or an
// error: again in each turn until they are read. readable must not block. stop ends
// that, and must be called before fd is closed. One more call of readable may follow.
func (e *loops) Watch(fd int, readable func()) (stop func(), err error) {
	return e.nextPoller().WatchUntil(&watched{readable}, fd, netio.Readable)
}

// WatchBusy is like Watch, on a loop that serves only sockets watched by it.
func (e *loops) WatchBusy(fd int, readable func()) (stop func(), err error) {
	return e.nextOf(e.busy).WatchUntil(&watched{readable}, fd, netio.Readable)
}

// nextPoller returns the event loops that are not for busy sockets, in turn.
func (e *loops) nextPoller() *poller { return e.nextOf(e.pollers) }

// nextOf returns a poller of a list, in turn.
func (e *loops) nextOf(pollers []*poller) *poller {
	return pollers[e.next.Add(1)%uint32(len(pollers))]
}

// Open implements [Engine].
func (e *loops) Open(addr netip.AddrPort, sink Sink) (Socket, error) {
	o := opening{addr: addr, sink: sink, now: time.Now()}
	for {
		s, err := e.connect(&o)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(addr), Err: err}
		}
		if o.accepted {
			return s, nil
		}
		s.release(o.now)
	}
}

// opening is a call of Open.
type opening struct {
	addr     netip.AddrPort
	sink     Sink
	now      time.Time // when the call began
	tries    int       // sockets whose port had not rested
	accepted bool      // the latest socket has a port for the session
}

// sinkOf returns the sink of a socket with a port: that of the session, or one
// that discards if the session must not have the port because it has not rested.
func (o *opening) sinkOf(port uint16) Sink {
	if o.tries == portTries || ports.rested(port, o.now) {
		o.accepted = true
		return o.sink
	}
	o.tries++
	return discard{}
}

// connect returns a spare socket or a new one.
func (e *loops) connect(o *opening) (*loopSocket, error) {
	if s := e.reuse(o, pauseTime); s != nil {
		return s, nil
	}
	s, err := e.open(o)
	if err != nil && netio.Classify(err) == netio.Exhausted {
		if s := e.reuse(o, 0); s != nil {
			return s, nil
		}
		e.spares.closeKept(o.now, 0) // those of the other family hold descriptors too
		s, err = e.open(o)
	}
	return s, err
}

// open returns a new socket.
func (e *loops) open(o *opening) (*loopSocket, error) {
	addr := o.addr
	fd, port, err := netio.ConnectUDP(addr)
	if err != nil {
		return nil, err
	}
	s := &loopSocket{spares: &e.spares, fd: fd, ipv4: addr.Addr().Unmap().Is4(), port: port, sink: o.sinkOf(port)}
	s.poller = e.nextPoller()
	s.started.Store(o.accepted)
	s.sender.Init(e.probeFeatures(fd))
	if err := s.join(); err != nil {
		o.accepted = false
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

func newRun() (netio.Run[member], error) {
	receiver, err := netio.NewReceiver(false)
	if err != nil {
		return nil, err
	}
	return &run{receiver: receiver}, nil
}

// Turn implements [netio.Run].
func (r *run) Turn(ready []netio.Ready[member]) {
	r.turn++
	for i := range ready {
		ready[i].Value.handle(r, ready[i].Events)
	}
}

// End implements [netio.Run].
func (r *run) End() { r.receiver.Free() }
