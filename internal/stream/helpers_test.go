package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// longIdle is the idle timeout of relays that must not reach it.
const longIdle = time.Hour

// recorder implements Rules. It records what a mover reports.
type recorder struct {
	t          testing.TB
	ended      chan End
	ends       atomic.Int32
	panics     chan any
	connected  chan struct{}
	failed     chan error
	slow       chan Pending
	up, down   atomic.Uint64
	mayPanic   atomic.Bool
	inEnded    func()                               // called by Ended
	inConnects func()                               // called by Connected
	inWaits    func(clientReset bool) time.Duration // called by ConnectWaits; nil: slowConnect once, then 0
	waited     bool                                 // ConnectWaits was called; guarded by the mover's lock
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{
		t: t, ended: make(chan End, 10), panics: make(chan any, 10),
		connected: make(chan struct{}, 1), failed: make(chan error, 1), slow: make(chan Pending, 1),
	}
}

func (r *recorder) totals() Totals { return Totals{Up: &r.up, Down: &r.down} }

func (r *recorder) Connected() Totals {
	if r.inConnects != nil {
		r.inConnects()
	}
	r.connected <- struct{}{}
	return r.totals()
}
func (r *recorder) ConnectFailed(err error) { r.failed <- err }
func (r *recorder) ConnectSlow(p Pending)   { r.slow <- p }
func (r *recorder) ConnectWaits(clientReset bool) time.Duration {
	if r.inWaits != nil {
		return r.inWaits(clientReset)
	}
	if r.waited {
		return 0
	}
	r.waited = true
	return slowConnect
}

// slowConnect is how long a connection waits on a loop in most tests.
const slowConnect = 10 * time.Millisecond

func (r *recorder) Ended(end End) {
	if r.ends.Add(1) > 1 {
		r.t.Error("the end is reported twice")
	}
	r.ended <- end
	if r.inEnded != nil {
		r.inEnded()
	}
}

func (r *recorder) Panicked(value any) {
	if !r.mayPanic.Load() {
		r.t.Errorf("panic: %v", value)
	}
	r.panics <- value
}

// rig is a relay between two connections, whose other ends the test has.
type rig struct {
	*recorder
	mover           Mover
	client, backend *net.TCPConn // the test's ends

	clientFar, backendNear *net.TCPConn // the relay's ends; those of a mover on a loop are detached
	carried                chan struct{}
}

// kind is one of the ways in which a relay moves bytes.
type kind struct {
	name string
	new  func(client Client, rules Rules, wheel *Wheel) Mover
	stop func() // stops loops as soon as they are idle; nil: there are none
}

// kinds returns all movers of this system.
func kinds() []kind {
	list := []kind{{name: "goroutines", new: NewMover}}
	for _, e := range engines() {
		engine := e.Engine
		list = append(list, kind{
			name: e.name,
			new: func(client Client, rules Rules, wheel *Wheel) Mover {
				m := engine.NewMover(client, rules, wheel)
				if m == nil {
					return nil
				}
				return m
			},
			stop: engine.(interface{ StopWhenIdle() }).StopWhenIdle,
		})
	}
	return list
}

// namedEngine is an engine under test.
type namedEngine struct {
	name string
	Engine
}

// engines returns new engines; none if there are no event loops.
func engines() []namedEngine {
	list := []namedEngine{{"loops", NewEngine(netio.NewProcessorBudget())}, {"scattered loops", newScattered()}}
	return slices.DeleteFunc(list, func(e namedEngine) bool { return e.Engine == nil })
}

// forEachMover runs a test with every mover.
func forEachMover(t *testing.T, test func(t *testing.T, k kind)) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			if k.stop != nil {
				t.Cleanup(k.stop)
			}
			test(t, k)
		})
	}
}

// setup describes a relay under test. Its zero value has default buffers and an
// idle timeout that is not reached.
type setup struct {
	idle    time.Duration
	buffers int // size of the socket buffers of all four sockets; 0: the system's
	early   string
	client  func(*net.TCPConn) Client // nil: plainClient
	delay   bool                      // the test calls start
}

func plainClient(conn *net.TCPConn) Client {
	return Client{
		Conn: conn, CloseWriter: conn, Socket: conn,
		Detacher: detachFunc(func() (int, error) { return netio.Detach(conn) }),
	}
}

// detachFunc is a [Detacher] made of a function.
type detachFunc func() (fd int, err error)

func (f detachFunc) Detach() (fd int, err error) { return f() }

// closeWriteFunc is a [CloseWriter] made of a function.
type closeWriteFunc func() error

func (f closeWriteFunc) CloseWrite() error { return f() }

// wrappedClient returns a client that is no plain socket for the mover, as behind
// a layer4 handler.
func wrappedClient(conn *net.TCPConn) Client {
	return Client{Conn: struct{ net.Conn }{conn}, CloseWriter: conn, Socket: conn}
}

// newRig starts a relay.
func newRig(t testing.TB, k kind, s setup) *rig {
	t.Helper()
	if s.idle == 0 {
		s.idle = longIdle
	}
	if s.client == nil {
		s.client = plainClient
	}
	r := &rig{recorder: newRecorder(t), carried: make(chan struct{})}
	r.client, r.clientFar = tcpPair(t, s.buffers)
	r.backendNear, r.backend = tcpPair(t, s.buffers)
	client := s.client(r.clientFar)
	client.Early = []byte(s.early)
	r.mover = k.new(client, r, NewWheel(s.idle))
	t.Cleanup(func() {
		r.mover.Cut(Shutdown)
		relaytest.Receive(t, "the end of Carry", r.carried)
	})
	if !s.delay {
		r.start()
	}
	return r
}

// start has the mover carry bytes. It returns at once.
func (r *rig) start() {
	go func() { // ends with the relay at the latest
		defer close(r.carried)
		r.mover.Carry(r.backendNear, r.totals())
	}()
}

// flow returns the state of a direction.
func (r *rig) flow(source Side) flow {
	if m, ok := r.mover.(*goroutineMover); ok {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.ends.flows[source]
	}
	return r.mover.(interface{ flow(Side) flow }).flow(source)
}

// entry returns the relay's entry in its wheel.
func (r *rig) entry() (*Wheel, *idler) {
	if m, ok := r.mover.(*goroutineMover); ok {
		return m.wheel, &m.idler
	}
	m := r.mover.(interface{ entry() (*Wheel, *idler) })
	return m.entry()
}

// age makes it look as if no bytes had moved for the idle timeout. It waits until
// the relay has begun. It does nothing once the relay has ended.
func (r *rig) age() {
	r.t.Helper()
	w, i := r.entry()
	relaytest.Eventually(r.t, "the relay to begin", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return i.slot != noSlot || len(r.ended) > 0
	})
	i.used.Store(w.now() - int64(w.timeout))
}

// checkIdle does what the wheel does when the idle timeout may have expired.
func (r *rig) checkIdle() {
	w, i := r.entry()
	w.remove(i)
	i.owner.expireIfIdle()
}

// expire lets the idle timeout expire. Tests set one that is not reached, so that
// a slow machine does not end the relay before the test has come this far.
func (r *rig) expire() {
	r.t.Helper()
	for len(r.ended) == 0 {
		r.age()
		r.checkIdle()
	}
}

// side returns the test's end of a side.
func (r *rig) side(s Side) *net.TCPConn {
	if s == ClientSide {
		return r.client
	}
	return r.backend
}

// end waits for the end of the relay.
func (r *recorder) end() End {
	r.t.Helper()
	return relaytest.Receive(r.t, "the end of the relay", r.ended)
}

// wantEnd waits for the end of the relay and checks it.
func (r *recorder) wantEnd(reason Reason, up, down int64) {
	r.t.Helper()
	if got := r.end(); got.Reason != reason || got.BytesUp != up || got.BytesDown != down {
		r.t.Errorf("ended as %+v, want %s with %d bytes up and %d down", got, reason, up, down)
	}
}

// wantRunning fails if the relay has ended.
func (r *recorder) wantRunning() {
	r.t.Helper()
	select {
	case end := <-r.ended:
		r.t.Fatalf("ended early: %+v", end)
	default:
	}
}

// tcpPair returns both ends of a connection over loopback.
func tcpPair(t testing.TB, buffers int) (near, far *net.TCPConn) {
	t.Helper()
	config := net.ListenConfig{}
	dialer := net.Dialer{}
	if buffers > 0 {
		// Set before the connection is established: the receive buffer limits the window.
		control := func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { setBuffers(fd, buffers) })
		}
		config.Control, dialer.Control = control, control
	}
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer listener.Close()
	conn, err := dialer.DialContext(context.Background(), "tcp", listener.Addr().String())
	relaytest.Check(t, err)
	t.Cleanup(func() { conn.Close() })
	accepted, err := listener.Accept()
	relaytest.Check(t, err)
	t.Cleanup(func() { accepted.Close() })
	return conn.(*net.TCPConn), accepted.(*net.TCPConn)
}

// say writes a text.
func say(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	relaytest.Check(t, conn.SetWriteDeadline(time.Now().Add(relaytest.Limit)))
	_, err := io.WriteString(conn, text)
	relaytest.Check(t, err)
}

// hear reads exactly a text.
func hear(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	relaytest.Check(t, conn.SetReadDeadline(time.Now().Add(relaytest.Limit)))
	got := make([]byte, len(text))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("received %q, %v; want %q", got[:n], err, text)
	}
}

// The ways in which a stream ends for its reader.
const (
	fin = "FIN"
	rst = "RST"
)

// readToEnd reads to the end of a stream, and returns what it has read and how the
// stream ended. chunk bounds each read, and pause comes before each.
func readToEnd(conn *net.TCPConn, chunk int, pause time.Duration) (bytes []byte, how string) {
	buf := make([]byte, chunk)
	for {
		time.Sleep(pause)
		_ = conn.SetReadDeadline(time.Now().Add(relaytest.Limit))
		n, err := conn.Read(buf)
		bytes = append(bytes, buf[:n]...)
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return bytes, fin
		case errors.Is(err, syscall.ECONNRESET):
			return bytes, rst
		case errors.Is(err, os.ErrDeadlineExceeded):
			return bytes, "timeout"
		default:
			return bytes, err.Error()
		}
	}
}

// wantStream reads a stream to its end and checks what was received and how it ended.
func wantStream(t testing.TB, who string, conn *net.TCPConn, want, how string) {
	t.Helper()
	wantSlowStream(t, who, conn, want, how, 64<<10, 0)
}

// wantSlowStream is wantStream for a slow reader.
func wantSlowStream(t testing.TB, who string, conn *net.TCPConn, want, how string, chunk int, pause time.Duration) {
	t.Helper()
	got, ended := readToEnd(conn, chunk, pause)
	if string(got) != want || ended != how {
		t.Errorf("%s received %d bytes and %s, want %d and %s (the same so far: %v)", who, len(got), ended, len(want), how, strings.HasPrefix(want, string(got)))
	}
}

// resetNow closes a connection with a RST.
func resetNow(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	relaytest.Check(t, conn.SetLinger(0))
	relaytest.Check(t, conn.Close())
}

// waitAcknowledged waits until the peer of a connection has acknowledged all bytes.
func waitAcknowledged(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	if _, known := netio.Unacknowledged(conn); !known {
		t.Skip("this system does not report acknowledged bytes")
	}
	relaytest.Eventually(t, "all bytes to be acknowledged", func() bool {
		n, _ := netio.Unacknowledged(conn)
		return n == 0
	})
}

// text returns n bytes that differ from place to place.
func text(n int) string {
	b := make([]byte, n)
	x := uint32(n)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

// async runs f on a goroutine and returns a function that waits for it.
func async(f func()) (wait func()) {
	var done sync.WaitGroup
	done.Go(f)
	return done.Wait
}

// sendUntilFull sends until no more is accepted, and returns how many bytes were.
func sendUntilFull(t testing.TB, conn *net.TCPConn) (sent int) {
	t.Helper()
	piece := make([]byte, 1<<20)
	for {
		relaytest.Check(t, conn.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := conn.Write(piece)
		sent += n
		switch timeout := errors.Is(err, os.ErrDeadlineExceeded); {
		case err == nil, timeout && n > 0:
		case timeout:
			return sent
		default:
			t.Fatal(err)
		}
	}
}

// wantDelivered waits for the end of transfers.
func wantDelivered(t testing.TB, transfers ...<-chan error) {
	t.Helper()
	for _, transfer := range transfers {
		if err := relaytest.Receive(t, "the end of a transfer", transfer); err != nil {
			t.Error(err)
		}
	}
}
