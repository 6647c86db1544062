package stream

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// backendFD returns the descriptor of the relay's connection to its backend.
func (r *connectRig) backendFD() int {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.m.sockets[BackendSide].fd
}

// wantKeepAlive checks the idle time of a socket's keep-alive; 0: it has none.
func wantKeepAlive(t testing.TB, when string, fd int, want time.Duration) {
	t.Helper()
	on, errno := netio.Option(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	idle, errno2 := netio.Option(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
	if errno != 0 || errno2 != 0 {
		t.Fatal(errno, errno2)
	}
	got := time.Duration(idle) * time.Second
	if on == 0 {
		got = 0
	}
	if got != want {
		t.Errorf("%s: keep-alive after %v, want %v", when, got, want)
	}
}

// The keep-alive of the backend's connection is deferred. It is set at once if the wheel turns
// too slowly or too quickly for that, and if the connection is handed over.
func TestKeepAliveOfABackend(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	backends := listen(t, "127.0.0.1:0")
	tick := NewWheel(longIdle).tick.Truncate(time.Second)
	for _, test := range []struct {
		name              string
		idle, keepAlive   time.Duration
		atOnce, afterward time.Duration
	}{
		{"deferred", longIdle, 10 * tick, 0, 10 * tick},
		{"slow wheel", longIdle, tick, tick, tick},
		{"quick wheel", 20 * time.Second, 15 * time.Second, 15 * time.Second, 15 * time.Second},
		{"none", longIdle, 0, 0, 0},
	} {
		r := newConnectRig(t, engine)
		r.m.wheel = NewWheel(test.idle)
		r.m.Connect(addrPort(backends), test.keepAlive)
		relaytest.Receive(t, "the connection", r.connected)
		wantKeepAlive(t, test.name+", at once", r.backendFD(), test.atOnce)
		r.m.doDeferred()
		wantKeepAlive(t, test.name+", afterwards", r.backendFD(), test.afterward)
		r.m.Cut(Shutdown)
		r.end()
	}

	t.Run("ended before", func(t *testing.T) {
		r := newConnectRig(t, engine)
		r.m.Connect(addrPort(backends), 10*tick)
		relaytest.Receive(t, "the connection", r.connected)
		was := r.backendFD()
		other, _ := connectTo(t, backends)
		defer netio.CloseDescriptor(other)
		r.m.Cut(Shutdown)
		r.end()
		same, err := unix.FcntlInt(uintptr(other), unix.F_DUPFD_CLOEXEC, was)
		relaytest.Check(t, err)
		defer netio.CloseDescriptor(same)
		if same != was {
			t.Skip("another goroutine has the number of the closed socket")
		}
		r.m.doDeferred()
		wantKeepAlive(t, "another socket with the number of the closed one", was, 0)
	})

	t.Run("handed over", func(t *testing.T) {
		r := newConnectRig(t, engine)
		silent := newSilentServer(t)
		r.m.Connect(silent.addr, 10*tick)
		pending := relaytest.Receive(t, "the slow connection", r.slow)
		silent.accept()
		r.carry(pending)
		wantKeepAlive(t, "handed over", r.backendFD(), 10*tick)
		r.m.Cut(Shutdown)
		r.end()
	})

	t.Run("of another connection", func(t *testing.T) {
		r := newConnectRig(t, engine)
		backends := listen(t, "127.0.0.1:0")
		fd, backend := connectTo(t, backends)
		resetNow(t, backend)
		relaytest.Eventually(t, "the reset", func() bool { return netio.PeerStateOfFD(fd).Failed })
		r.m.mu.Lock()
		r.awaitLocked(fd)
		r.m.keepAlive = 10 * tick
		r.m.mu.Unlock()
		relaytest.Receive(t, "the failure", r.failed)
		conn, err := (&net.Dialer{KeepAlive: -1}).Dial("tcp", backends.Addr().String())
		relaytest.Check(t, err)
		r.m.Carry(conn, r.totals())
		r.m.doDeferred() // which must leave alone what another package has dialled
		wantKeepAlive(t, "dialled elsewhere", r.backendFD(), 0)
		r.m.Cut(Shutdown)
		r.end()
	})
}

// wantSegments checks how many segments a connection has sent when round returns the number.
func wantSegments(t testing.TB, want uint32, round func() (got uint32)) {
	t.Helper()
	var got uint32
	relaytest.QuickRound(t, func() { got = round() })
	if got != want {
		t.Errorf("sent %d segments, want %d", got, want)
	}
}

// The acknowledgement of a backend's handshake is sent with the first bytes of the client, if
// they are there. Otherwise it is sent at once: the backend may speak first. It is sent before
// a FIN.
func TestAcknowledgementOfABackend(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	for _, test := range []struct {
		name, header, says string
		finishes           bool
		want               uint32 // segments when Connect has returned
	}{
		{"a client that has sent", "", "question", false, 2}, // a SYN, and the bytes
		{"a header", "header", "", false, 2},
		{"nothing to send", "", "", false, 2}, // a SYN, and the acknowledgement
		{"a FIN", "", "", true, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantSegments(t, test.want, func() uint32 {
				backends := listen(t, "127.0.0.1:0")
				r := newHeaderRig(t, engine, test.header)
				say(t, r.client, test.says)
				if test.finishes {
					relaytest.Check(t, r.client.CloseWrite())
				}
				waitAcknowledged(t, r.client)
				r.m.Connect(addrPort(backends), 0)
				sent := relaytest.SegmentsSent(t, r.backendFD())
				relaytest.Receive(t, "the connection", r.connected)
				backend := accept(t, backends)
				hear(t, backend, test.header+test.says)
				say(t, backend, "greeting")
				hear(t, r.client, "greeting")
				r.m.Cut(Shutdown)
				r.end()
				return sent
			})
		})
	}
}

// The acknowledgement does not wait for bytes on a connection that the loop has waited for, or
// that is handed over.
func TestAcknowledgementOfASlowConnection(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	backends := listen(t, "127.0.0.1:0")
	for _, handedOver := range []bool{false, true} {
		wantSegments(t, 2, func() (sent uint32) { // a SYN, and the acknowledgement
			r := newConnectRig(t, engine)
			fd, done, err := netio.ConnectTCPNonblock(addrPort(backends))
			if err != nil || !done {
				t.Fatalf("done is %v, error %v", done, err)
			}
			r.m.mu.Lock()
			r.m.ackDelayed = true
			if handedOver {
				r.m.sockets[BackendSide] = socket{fd: fd}
				r.m.connecting = time.AfterFunc(time.Hour, func() {})
			} else {
				r.awaitLocked(fd)
			}
			r.m.mu.Unlock()
			if handedOver {
				r.inWaits = func(bool) time.Duration { return 0 }
				r.m.connectIsSlow()
				sent = relaytest.SegmentsSent(t, fd)
				r.carry(relaytest.Receive(t, "the connection", r.slow))
			} else {
				relaytest.Receive(t, "the connection", r.connected)
				sent = relaytest.SegmentsSent(t, r.backendFD())
			}
			r.m.Cut(Shutdown)
			r.end()
			return sent
		})
	}
}

// noDelay returns TCP_NODELAY of a socket.
func noDelay(t testing.TB, fd int) bool {
	t.Helper()
	on, errno := netio.Option(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
	if errno != 0 {
		t.Fatal(errno)
	}
	return on != 0
}

// Nagle's algorithm is switched off for the backend before the second write, which may follow
// bytes that were there before the connection, or a connect that the loop has waited for. It is
// off on connections that are handed over.
func TestNagleOfABackend(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	backends := listen(t, "127.0.0.1:0")
	for _, test := range []struct {
		name, header string
		slow         bool
		writes       int
		want         bool
	}{
		{"first write", "", false, 1, false},
		{"second write", "", false, 2, true},
		{"third write", "", false, 3, true},
		{"a header", "header", false, 0, false},
		{"a write after a header", "header", false, 1, true},
		{"first write after a slow connect", "", true, 1, false},
		{"second write after a slow connect", "", true, 2, true},
		{"a write after a header and a slow connect", "header", true, 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newHeaderRig(t, engine, test.header)
			var backend net.Conn
			if test.slow {
				silent := newSilentServer(t)
				r.inWaits = func(bool) time.Duration { return time.Hour }
				r.m.Connect(silent.addr, 0)
				backend = silent.accept()
			} else {
				r.m.Connect(addrPort(backends), 0)
				backend = accept(t, backends)
			}
			relaytest.Receive(t, "the connection", r.connected)
			hear(t, backend, test.header)
			for range test.writes {
				say(t, r.client, "question")
				hear(t, backend, "question")
			}
			say(t, backend, "answer")
			hear(t, r.client, "answer")
			if got := noDelay(t, r.backendFD()); got != test.want {
				t.Errorf("TCP_NODELAY is %v, want %v", got, test.want)
			}
			r.m.Cut(Shutdown)
			r.end()
		})
	}

	t.Run("handed over", func(t *testing.T) {
		r := newConnectRig(t, engine)
		silent := newSilentServer(t)
		r.m.Connect(silent.addr, 0)
		pending := relaytest.Receive(t, "the slow connection", r.slow)
		silent.accept()
		r.carry(pending)
		if !noDelay(t, r.backendFD()) {
			t.Error("TCP_NODELAY is off")
		}
		r.m.Cut(Shutdown)
		r.end()
	})
}
