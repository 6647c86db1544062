package dgram

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// overEngines runs a test over each engine, and checks that it leaves no goroutine. On systems without event loops it
// runs over Goroutines twice.
func overEngines(t *testing.T, test func(*testing.T, Engine)) {
	run := func(name string, engine Engine) {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			stopWithTest(t, engine)
			test(t, engine)
		})
	}
	run("goroutines", Goroutines{})
	run("loops", NewEngine(netio.NewProcessorBudget()))
}

// stopWithTest makes the event loops of an engine stop as soon as they are idle,
// from the end of the test on.
func stopWithTest(t testing.TB, engine Engine) {
	if e, ok := engine.(interface{ StopWhenIdle() }); ok {
		t.Cleanup(e.StopWhenIdle)
	}
}

// collector is a Sink that records what it receives.
type collector struct {
	mu        sync.Mutex
	datagrams [][]byte
	errs      []error
}

// Datagrams implements [Sink].
func (c *collector) Datagrams(datagrams [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, datagram := range datagrams {
		c.datagrams = append(c.datagrams, bytes.Clone(datagram))
	}
}

// Failed implements [Sink].
func (c *collector) Failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
}

// received returns what the sink has received so far.
func (c *collector) received() ([][]byte, []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.datagrams, c.errs
}

func (c *collector) count() (datagrams, errs int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.datagrams), len(c.errs)
}

// stuckSink blocks with each datagram until it is released.
type stuckSink struct {
	entered chan string // receives each datagram when it arrives
	release chan struct{}
}

func newStuckSink() *stuckSink {
	return &stuckSink{entered: make(chan string, 64), release: make(chan struct{})}
}

// Datagrams implements [Sink].
func (s *stuckSink) Datagrams(datagrams [][]byte) {
	for _, d := range datagrams {
		s.entered <- string(d)
		<-s.release
	}
}

// Failed implements [Sink].
func (*stuckSink) Failed(error) {}

// send sends datagrams in one call.
func send(socket Socket, datagrams ...[]byte) error {
	_, err := socket.Send(datagrams)
	return err
}

func openSocket(t testing.TB, engine Engine, addr string, sink Sink) Socket {
	t.Helper()
	socket, err := engine.Open(netip.MustParseAddrPort(addr), sink)
	relaytest.Check(t, err)
	return socket
}

// localPort returns the port of a socket. Nothing has been sent to it yet.
func localPort(t testing.TB, socket Socket) uint16 {
	if s, ok := socket.(*goSocket); ok {
		return s.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	return loopPort(t, socket)
}

// deadAddr is a port of loopback without a listener. It is below 1024, because
// a socket of the test could get a higher one.
const deadAddr = "127.0.0.1:1"
