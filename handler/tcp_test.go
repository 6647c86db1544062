package handler

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// established starts a relay between a client and a backend of the test, and waits
// until it is connected.
func established(t *testing.T, edit ...func(*Options)) (r *rig, client, backend *net.TCPConn, done <-chan struct{}) {
	t.Helper()
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r = newRig(t, []string{server.String()}, edit...)
	client, done = r.client()
	backend = relaytest.Receive(t, "a connection at the backend", conns)
	r.line("connected") // or a reset could still fail the attempt
	return r, client, backend, done
}

// wantEnd checks the log line of the only relay that has ended.
func (r *rig) wantEnd(why stream.Reason, up, down int64) {
	r.t.Helper()
	line := r.line("relay ended")
	fields := line.ContextMap()
	for name, want := range map[string]any{
		"service": "test", "network": "tcp", "reason": string(why), "bytes_up": up, "bytes_down": down,
	} {
		if fields[name] != want {
			r.t.Errorf("%s is %v, want %v", name, fields[name], want)
		}
	}
	if _, ok := fields["duration"].(time.Duration); !ok || line.Entry.Level != zapcore.DebugLevel {
		r.t.Errorf("logged at %s with %v, want a duration, at DEBUG", line.Entry.Level, fields)
	}
	if fields["client"] == nil || fields["backend"] == nil || fields["address"] == nil {
		r.t.Errorf("client, backend or address is missing in %v", fields)
	}
}

func TestHalfCloseByClient(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Write(t, client, "question")
	relaytest.Check(t, client.CloseWrite())
	relaytest.WantRead(t, backend, "question")
	wantEnding(t, "the backend", backend, "FIN")
	for range 10 { // the other direction continues
		relaytest.Write(t, backend, "answer")
		relaytest.WantRead(t, client, "answer")
	}
	relaytest.Check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.ClientClosed, 8, 60)
}

func TestHalfCloseByBackend(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Write(t, backend, "greeting")
	relaytest.Check(t, backend.CloseWrite())
	relaytest.WantRead(t, client, "greeting")
	wantEnding(t, "the client", client, "FIN")
	for range 10 {
		relaytest.Write(t, client, "upload")
		relaytest.WantRead(t, backend, "upload")
	}
	relaytest.Check(t, client.CloseWrite())
	wantEnding(t, "the backend", backend, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.BackendClosed, 60, 8)
}

func TestResetByClient(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Write(t, client, "half a mes")
	relaytest.WantRead(t, backend, "half a mes")
	relaytest.Reset(t, client)
	wantEnding(t, "the backend", backend, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.ClientReset, 10, 0)
}

func TestResetByBackend(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Write(t, backend, "half an ans")
	relaytest.WantRead(t, client, "half an ans")
	relaytest.Reset(t, backend)
	wantEnding(t, "the client", client, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.BackendReset, 0, 11)
}

// A reset by a side that received a FIN, but sent none, resets the other side.
func TestResetAfterHalfClose(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Check(t, client.CloseWrite())
	wantEnding(t, "the backend", backend, "FIN")
	relaytest.Reset(t, backend)
	wantEnding(t, "the client", client, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.BackendReset, 0, 0)
}

// canSeeResets reports whether this system reports the reset of a connection
// without a read.
func canSeeResets(t *testing.T) bool {
	near, far := relaytest.TCPPair(t)
	relaytest.Reset(t, near)
	for range 100 {
		if netio.PeerStateOf(far).Reset() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// After a client has closed its connection, the backend can still send to its end.
// These bytes are discarded, and the relay ends when the backend finishes.
func TestClientClosesBeforeBackendFinishes(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Write(t, client, "question")
	relaytest.Check(t, client.Close())
	relaytest.WantRead(t, backend, "question")
	wantEnding(t, "the backend", backend, "FIN")
	for range 20 { // on the first one, the kernel of the client resets its connection
		relaytest.Check(t, backend.SetWriteDeadline(time.Now().Add(relaytest.Limit)))
		_, err := backend.Write(make([]byte, 1<<20))
		relaytest.Check(t, err)
	}
	relaytest.Check(t, backend.CloseWrite())
	relaytest.Receive(t, "the end of the relay", done)
	if got := r.line("relay ended").ContextMap()["reason"]; got != string(stream.ClientReset) {
		t.Errorf("reason %v, want %s", got, stream.ClientReset)
	}
}

// The bytes that were read before the relay started are sent first.
func TestEarlyBytesAreSentFirst(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{live.String()})
	early := strings.Repeat("early ", 50_000) // more than one buffer
	near, far := relaytest.TCPPair(t)
	c := plainClient(far)
	c.Early = []byte(early)
	done := r.serve(context.Background(), c)
	relaytest.Write(t, near, "late")
	relaytest.WantRead(t, near, early+"late")
	relaytest.Check(t, near.CloseWrite())
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.ClientClosed, int64(len(early)+4), int64(len(early)+4))
}

// A backend may send before its client does, as in SMTP.
func TestBackendSendsFirst(t *testing.T) {
	r, client, backend, _ := established(t)
	relaytest.Write(t, backend, "220 hello")
	relaytest.WantRead(t, client, "220 hello")
	relaytest.Write(t, client, "QUIT")
	relaytest.WantRead(t, backend, "QUIT")
	if tcp, udp := r.service.Active(); tcp != 1 || udp != 0 {
		t.Errorf("active: %d and %d, want 1 and 0", tcp, udp)
	}
}

// Active counts the relays that search for a backend too.
func TestActive(t *testing.T) {
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	live := serveTCP(t, "127.0.0.1:0", greet("hello"))
	waiting, served := newRig(t, []string{silent.String()}), newRig(t, []string{live.String()})
	var clients []*net.TCPConn
	for range 3 {
		conn, _ := waiting.client()
		clients = append(clients, conn)
		conn, _ = served.client()
		relaytest.WantRead(t, conn, "hello")
		clients = append(clients, conn)
	}
	for _, r := range []*rig{waiting, served} {
		relaytest.Eventually(t, "three active relays", func() bool { tcp, _ := r.service.Active(); return tcp == 3 })
	}
	for _, conn := range clients {
		relaytest.Reset(t, conn)
	}
	for _, r := range []*rig{waiting, served} {
		relaytest.Eventually(t, "the end of all relays", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
	}
}

// A reset by a client that waits for a backend ends its relay and its dial.
func TestClientResetsBeforeBackendAnswers(t *testing.T) {
	if !canSeeResets(t) {
		t.Skip("this system does not report resets")
	}
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()}, func(o *Options) { o.ConnectTimeout = time.Hour })
	client, done := r.client()
	waitForSYN(t, silent.String())
	relaytest.Reset(t, client)
	relaytest.Receive(t, "the end of the relay", done)
	line := r.line("relay ended").ContextMap()
	if line["reason"] != string(stream.ClientReset) || line["error"] != errClientGone.Error() || line["duration"] == nil {
		t.Errorf("fields %v, want %s, %q and a duration", line, stream.ClientReset, errClientGone)
	}
	r.wantLines("client refused", 0, "backend failed, first strike", 0)
	// NoLeaks checks that the dial has ended, long before its timeout.
}

// A client that has finished sending while it waits for a backend is served.
func TestClientFinishesBeforeBackendAnswers(t *testing.T) {
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()}, func(o *Options) { o.ConnectTimeout = time.Hour })
	client, done := r.client()
	relaytest.Write(t, client, "question")
	relaytest.Check(t, client.CloseWrite())
	waitForSYN(t, silent.String())
	time.Sleep(2 * watchEvery) // long enough for a check that would mistake the FIN for a reset
	silent.wake(echo)
	relaytest.WantRead(t, client, "question")
	wantEnding(t, "the client", client, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.ClientClosed, 8, 8)
}

// A client that addressed no port, because it came through a Unix socket or its PROXY
// protocol header has none, is no failure of a backend that has the port of each
// client.
func TestClientWithoutAPort(t *testing.T) {
	relaytest.NoLeaks(t)
	second := serveTCP(t, lo(t, 2)+":0", greet("second"))
	first := lo(t, 1) + ":0" // 0: the port of each client
	r := newRig(t, []string{first, second.String()})
	for _, local := range []net.Addr{&net.UnixAddr{Name: "/run/relay.sock", Net: "unix"}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}} {
		for range 2 {
			near, far := relaytest.TCPPair(t)
			client := plainClient(far)
			client.Conn = addressed{far, local}
			r.serve(t.Context(), client)
			relaytest.WantRead(t, near, "second")
			relaytest.Check(t, near.Close())
		}
	}
	r.wantLines("backend failed, first strike", 0, "backend failed, second strike", 0)
	if s := r.status(first, upstream.TCP); s.State != upstream.Up {
		t.Errorf("%+v", s)
	}
}

// addressed is a connection to another address than that of its socket.
type addressed struct {
	net.Conn
	to net.Addr
}

func (a addressed) LocalAddr() net.Addr { return a.to }
