package handler

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// errRefused is the error of a socket after an ICMP port unreachable.
var errRefused = os.NewSyscallError("read", syscall.ECONNREFUSED)

// fakeEngine opens sockets whose backend is the test. It records each call of
// their methods as a line:
//
//	1 open 192.0.2.1:53
//	1 < query
//	1 close
type fakeEngine struct {
	onOpen                 func(addr netip.AddrPort) error            // nil: succeeds
	onSend                 func(s *fakeSocket, datagram []byte) error // nil: succeeds
	onClose                func()
	quiet                  bool       // records no lines
	mu                     sync.Mutex // guards the fields below
	lines                  []string
	all                    []*fakeSocket
	opened, open, mostOpen int
}

type fakeSocket struct {
	engine *fakeEngine
	number int
	addr   netip.AddrPort
	sink   dgram.Sink
	closed bool // guarded by engine.mu
}

// Open implements [dgram.Engine].
func (e *fakeEngine) Open(addr netip.AddrPort, sink dgram.Sink) (dgram.Socket, error) {
	if e.onOpen != nil {
		if err := e.onOpen(addr); err != nil {
			e.write("open %s: %v", addr, err)
			return nil, err
		}
	}
	e.mu.Lock()
	e.opened++
	e.open++
	e.mostOpen = max(e.mostOpen, e.open)
	s := &fakeSocket{engine: e, number: e.opened, addr: addr, sink: sink}
	if !e.quiet {
		e.all = append(e.all, s)
	}
	e.mu.Unlock()
	e.write("%d open %s", s.number, addr)
	return s, nil
}

// CloseSpares implements [dgram.Engine].
func (e *fakeEngine) CloseSpares() bool { return false }

// Send implements [dgram.Socket].
func (s *fakeSocket) Send(datagrams [][]byte) (sent int, err error) {
	for i, datagram := range datagrams {
		if err := s.send(datagram); err != nil {
			return i, err
		}
	}
	return len(datagrams), nil
}

func (s *fakeSocket) send(datagram []byte) error {
	var err error
	if s.engine.onSend != nil {
		err = s.engine.onSend(s, datagram)
	}
	if s.engine.quiet {
		return err
	}
	if err != nil {
		s.engine.write("%d < %s: %v", s.number, datagram, err)
	} else {
		s.engine.write("%d < %s", s.number, datagram)
	}
	return err
}

// LocalAddr implements [dgram.Socket].
func (s *fakeSocket) LocalAddr() netip.AddrPort { return netip.AddrPort{} }

// Close implements [dgram.Socket].
func (s *fakeSocket) Close() {
	e := s.engine
	e.mu.Lock()
	again := s.closed
	s.closed = true
	e.open--
	e.mu.Unlock()
	if again {
		panic("socket closed twice")
	}
	e.write("%d close", s.number)
	if e.onClose != nil {
		e.onClose()
	}
}

func (s *fakeSocket) answer(text string) { s.sink.Datagrams([][]byte{[]byte(text)}) }

func (e *fakeEngine) write(format string, args ...any) {
	if e.quiet {
		return
	}
	line := fmt.Sprintf(format, args...)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, line)
}

// socket returns the n-th socket that was opened, from 1.
func (e *fakeEngine) socket(n int) *fakeSocket {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all[n-1]
}

func (e *fakeEngine) sockets() (open, mostOpen int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.open, e.mostOpen
}

// wants checks the lines recorded since the last call.
func (e *fakeEngine) wants(t testing.TB, want ...string) {
	t.Helper()
	e.mu.Lock()
	got := e.lines
	e.lines = nil
	e.mu.Unlock()
	if !slices.Equal(got, want) {
		t.Fatalf("calls:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// udpClient is a Replier that records its calls.
type udpClient struct {
	onReply   func([]byte) // called before the reply is recorded
	onRelease func()

	mu       sync.Mutex
	got      []string
	released int
	late     int // replies that returned after Release
}

// Reply implements [Replier].
func (c *udpClient) Reply(datagrams [][]byte) error {
	if c.onReply != nil {
		c.onReply(datagrams[0])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, datagram := range datagrams {
		c.got = append(c.got, string(datagram))
	}
	if c.released > 0 {
		c.late++
	}
	return nil
}

// Release implements [Replier].
func (c *udpClient) Release() {
	c.mu.Lock()
	c.released++
	c.mu.Unlock()
	if c.onRelease != nil {
		c.onRelease()
	}
}

// wants checks the answers since the last call.
func (c *udpClient) wants(t testing.TB, want ...string) {
	t.Helper()
	c.mu.Lock()
	got := c.got
	c.got = nil
	c.mu.Unlock()
	if !slices.Equal(got, want) {
		t.Fatalf("client got %q, want %q", got, want)
	}
}

func (c *udpClient) wantReleased(t testing.TB, want int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released != want {
		t.Fatalf("released %d times, want %d", c.released, want)
	}
	if c.late > 0 {
		t.Fatalf("%d replies after the release", c.late)
	}
}

func (c *udpClient) answers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.got)
}

// udpKey returns the key of the n-th client.
func udpKey(n int) Key {
	ip := netip.AddrFrom4([4]byte{198, 51, byte(n >> 24), byte(n >> 16)})
	return Key{Client: netip.AddrPortFrom(ip, uint16(n)), Local: netip.MustParseAddrPort("203.0.113.1:53")}
}

// udpRig is a rig with a fake engine.
type udpRig struct {
	*rig
	engine *fakeEngine
}

func newUDPRig(t testing.TB, backends []string, edit ...func(*Options)) *udpRig {
	t.Helper()
	engine := new(fakeEngine)
	edit = append([]func(*Options){func(o *Options) {
		o.UDP = engine
		o.MaxUDPSessions = 1 << 20
	}}, edit...)
	r := &udpRig{rig: newRig(t, backends, edit...), engine: engine}
	r.service.sessions.budget.limit = 1 << 20
	r.service.rebinds.gap = 0 // see rebinds_test.go
	return r
}

// deliver delivers datagrams of the n-th client, one by one.
func (r *rig) deliver(n int, client Replier, datagrams ...string) {
	for _, d := range datagrams {
		r.relay.Deliver(udpKey(n), [][]byte{[]byte(d)}, client)
	}
}

// session returns the session of the n-th client, or nil.
func (r *rig) session(n int) *session {
	t := r.service.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[udpKey(n)]
}

func (r *rig) wantSessions(want int) {
	r.t.Helper()
	if _, got := r.service.Active(); got != want {
		r.t.Fatalf("%d sessions, want %d", got, want)
	}
}

func (r *rig) wantStrikes(backend string, strikes int, state upstream.State) {
	r.t.Helper()
	if s := r.status(backend, upstream.UDP); s.Strikes != strikes || s.State != state {
		r.t.Fatalf("%s has %d strikes and is %s, want %d and %s:\n%s", backend, s.Strikes, s.State, strikes, state, r.transcript())
	}
}

// Ports of loopback without a listener. They are below 1024, because a socket of
// the relay could get a higher one.
const (
	deadAddr  = "127.0.0.1:1"
	deadAddr2 = "127.0.0.1:2"
)

func (c *udpClient) waitFor(t testing.TB, want ...string) {
	t.Helper()
	relaytest.Eventually(t, fmt.Sprintf("%d answers", len(want)), func() bool { return c.answers() >= len(want) })
	c.wants(t, want...)
}

// waitAnswer returns an answer that is given once the channel is closed.
func waitAnswer(found <-chan bool, list ...string) answer {
	return func(ctx context.Context, _ resolverCall) ([]netip.Addr, error) {
		select {
		case <-found:
			return addrsOf(list...), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// overEngines runs a test over each UDP engine.
func overEngines(t *testing.T, test func(*testing.T, dgram.Engine)) {
	t.Run("goroutines", func(t *testing.T) { test(t, dgram.Goroutines{}) })
	t.Run("loops", func(t *testing.T) { test(t, dgram.NewEngine(netio.NewProcessorBudget())) }) // goroutines again on systems without event loops
}

// withUDP returns an edit of the options that sets the UDP engine.
func withUDP(e dgram.Engine) func(*Options) { return func(o *Options) { o.UDP = e } }
