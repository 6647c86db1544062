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

// The keep-alive of the backend's connection is set when the relay is no longer young. It is
// set at once if the wheel turns too slowly for that, and if the connection is handed over.
func TestKeepAliveOfABackend(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	backends := listen(t, "127.0.0.1:0")
	tick := NewWheel(longIdle).tick.Truncate(time.Second)
	for _, test := range []struct {
		name        string
		keepAlive   time.Duration
		atOnce, old time.Duration
	}{
		{"later", 10 * tick, 0, 10 * tick},
		{"at once", tick, tick, tick},
		{"none", 0, 0, 0},
	} {
		r := newConnectRig(t, engine)
		r.m.Connect(addrPort(backends), test.keepAlive)
		relaytest.Receive(t, "the connection", r.connected)
		wantKeepAlive(t, test.name+", young", r.backendFD(), test.atOnce)
		r.m.grown()
		wantKeepAlive(t, test.name+", grown", r.backendFD(), test.old)
		r.m.Cut(Shutdown)
		r.end()
		r.m.grown() // does nothing
	}

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
		dead := listen(t, "127.0.0.1:0")
		relaytest.Check(t, dead.Close())
		r.m.Connect(addrPort(dead), 10*tick)
		relaytest.Receive(t, "the failure", r.failed)
		conn, err := (&net.Dialer{KeepAlive: -1}).Dial("tcp", backends.Addr().String())
		relaytest.Check(t, err)
		r.m.Carry(conn, r.totals())
		r.m.grown() // which must leave alone what another package has dialled
		wantKeepAlive(t, "dialled elsewhere", r.backendFD(), 0)
		r.m.Cut(Shutdown)
		r.end()
	})
}

// The acknowledgement of a backend's handshake travels with the first bytes of the client,
// if they are there. Otherwise it is sent at once: the backend may speak first.
func TestFirstBytesTravelWithTheAcknowledgement(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	backends := listen(t, "127.0.0.1:0")
	for _, test := range []struct {
		name, header, says string
		sent               uint32 // segments when Connect has returned
	}{
		{"a client that has sent", "", "question", 2}, // a SYN, and the bytes
		{"a header", "header", "", 2},
		{"nothing to send", "", "", 2}, // a SYN, and the acknowledgement
	} {
		t.Run(test.name, func(t *testing.T) {
			near, far := tcpPair(t, 0)
			r := &connectRig{recorder: newRecorder(t), client: near}
			client := plainClient(far)
			client.Early, client.HeaderLen = []byte(test.header), len(test.header)
			r.m = engine.NewMover(client, r, NewWheel(longIdle)).(*loopMover)
			say(t, r.client, test.says)
			waitAcknowledged(t, r.client)
			r.m.Connect(addrPort(backends), 0)
			relaytest.Receive(t, "the connection", r.connected)
			info, err := unix.GetsockoptTCPInfo(r.backendFD(), unix.IPPROTO_TCP, unix.TCP_INFO)
			relaytest.Check(t, err)
			if info.Segs_out != test.sent {
				t.Errorf("sent %d segments, want %d", info.Segs_out, test.sent)
			}
			backend := accept(t, backends)
			hear(t, backend, test.header+test.says)
			say(t, backend, "greeting")
			hear(t, r.client, "greeting")
			r.m.Cut(Shutdown)
			r.end()
		})
	}
}
