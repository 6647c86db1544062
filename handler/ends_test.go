package handler

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// established is a relay at work between two sockets of the test's.
func established(t *testing.T, edit ...func(*Options)) (r *rig, client, backend *net.TCPConn, done <-chan struct{}) {
	t.Helper()
	noLeaks(t)
	server, conns := handOver(t, "127.0.0.1:0")
	r = newRig(t, []string{server.String()}, edit...)
	client, done = r.client()
	backend = receiveFrom(t, "a connection at the backend", conns)
	r.line("connected") // or a reset might be the dial's
	return r, client, backend, done
}

// wantEnd checks the line at a relay's end.
func (r *rig) wantEnd(why stream.Reason, up, down int64) {
	r.t.Helper()
	line := r.line("relay ended")
	fields := line.ContextMap()
	for name, want := range map[string]any{
		"service": "test", "network": "tcp", "reason": string(why), "bytes_up": up, "bytes_down": down,
	} {
		if fields[name] != want {
			r.t.Errorf("at the end %s is %v, want %v", name, fields[name], want)
		}
	}
	if _, ok := fields["duration"].(time.Duration); !ok || line.Entry.Level != zapcore.DebugLevel {
		r.t.Errorf("at the end, %s, %v", line.Entry.Level, fields)
	}
	if fields["client"] == nil || fields["backend"] == nil || fields["address"] == nil {
		r.t.Errorf("whose end? %v", fields)
	}
}

func TestHalfCloseByClient(t *testing.T) {
	r, client, backend, done := established(t)
	say(t, client, "question")
	check(t, client.CloseWrite())
	hear(t, backend, "question")
	wantEnding(t, "the backend", backend, "FIN")
	for range 10 { // the other direction goes on
		say(t, backend, "answer")
		hear(t, client, "answer")
	}
	check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.ClientClosed, 8, 60)
}

func TestHalfCloseByBackend(t *testing.T) {
	r, client, backend, done := established(t)
	say(t, backend, "greeting")
	check(t, backend.CloseWrite())
	hear(t, client, "greeting")
	wantEnding(t, "the client", client, "FIN")
	for range 10 {
		say(t, client, "upload")
		hear(t, backend, "upload")
	}
	check(t, client.CloseWrite())
	wantEnding(t, "the backend", backend, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.BackendClosed, 60, 8)
}

func TestResetByClient(t *testing.T) {
	r, client, backend, done := established(t)
	say(t, client, "half a mes")
	hear(t, backend, "half a mes")
	resetNow(t, client)
	wantEnding(t, "the backend", backend, "RST")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.ClientReset, 10, 0)
}

func TestResetByBackend(t *testing.T) {
	r, client, backend, done := established(t)
	say(t, backend, "half an ans")
	hear(t, client, "half an ans")
	resetNow(t, backend)
	wantEnding(t, "the client", client, "RST")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.BackendReset, 0, 11)
}

// A side that was sent a FIN and is then reset has not finished.
func TestResetAfterHalfClose(t *testing.T) {
	r, client, backend, done := established(t)
	check(t, client.CloseWrite())
	wantEnding(t, "the backend", backend, "FIN")
	resetNow(t, backend)
	wantEnding(t, "the client", client, "RST")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.BackendReset, 0, 0)
}

func canSeeResets(t *testing.T) bool {
	near, far := tcpPair(t)
	resetNow(t, near)
	for range 100 {
		if netio.PeerStateOf(far).Reset() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// A client that closed while the backend still sends has finished: the backend
// is not disturbed, what it sends is discarded, and the relay ends with it.
func TestClientClosesBeforeTheBackendHasFinished(t *testing.T) {
	r, client, backend, done := established(t)
	say(t, client, "question")
	check(t, client.Close())
	hear(t, backend, "question")
	wantEnding(t, "the backend", backend, "FIN")
	for range 20 { // the first write makes the client's system reset the connection
		check(t, backend.SetWriteDeadline(time.Now().Add(limit)))
		_, err := backend.Write(make([]byte, 1<<20))
		check(t, err)
	}
	check(t, backend.CloseWrite())
	receiveFrom(t, "the end", done)
	if got := r.line("relay ended").ContextMap()["reason"]; got != string(stream.ClientReset) {
		t.Errorf("ended by %v", got)
	}
}

// What was read before the relay took over comes first.
func TestEarlyBytesGoFirst(t *testing.T) {
	noLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{live.String()})
	early := strings.Repeat("early ", 50_000) // more than one buffer
	near, far := tcpPair(t)
	c := plain(far)
	c.Early = []byte(early)
	done := r.serve(context.Background(), c)
	say(t, near, "late")
	hear(t, near, early+"late")
	check(t, near.CloseWrite())
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.ClientClosed, int64(len(early)+4), int64(len(early)+4))
}

// The backend speaks first, as SMTP's does, and the client does not yet.
func TestServerSpeaksFirst(t *testing.T) {
	r, client, backend, _ := established(t)
	say(t, backend, "220 hello")
	hear(t, client, "220 hello")
	say(t, client, "QUIT")
	hear(t, backend, "QUIT")
	if tcp, udp := r.service.Active(); tcp != 1 || udp != 0 {
		t.Errorf("active: %d and %d, want 1 and 0", tcp, udp)
	}
}

// Active counts those who look for a backend, too.
func TestActive(t *testing.T) {
	noLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	live := serveTCP(t, "127.0.0.1:0", greet("hello"))
	waiting, served := newRig(t, []string{silent.String()}), newRig(t, []string{live.String()})
	var ends []*net.TCPConn
	for range 3 {
		conn, _ := waiting.client()
		ends = append(ends, conn)
		conn, _ = served.client()
		hear(t, conn, "hello")
		ends = append(ends, conn)
	}
	for _, r := range []*rig{waiting, served} {
		eventually(t, "three are active", func() bool { tcp, _ := r.service.Active(); return tcp == 3 })
	}
	for _, conn := range ends {
		resetNow(t, conn)
	}
	for _, r := range []*rig{waiting, served} {
		eventually(t, "none is active", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
	}
}

// A client that resets while it waits is noticed, and its dial given up.
func TestClientLeavesBeforeABackendAnswers(t *testing.T) {
	if !canSeeResets(t) {
		t.Skip("this system is not asked")
	}
	noLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()}, func(o *Options) { o.ConnectTimeout = time.Hour })
	client, done := r.client()
	waitForSYN(t, silent.String())
	resetNow(t, client)
	receiveFrom(t, "the end", done)
	line := r.line("relay ended").ContextMap()
	if line["reason"] != string(stream.ClientReset) || line["error"] != errClientGone.Error() || line["duration"] == nil {
		t.Errorf("ended with %v", line)
	}
	r.wantLines("client refused", 0, "backend failed, first strike", 0)
	// That the dial is over is seen by noLeaks, an hour before its time.
}

// One that merely finished sending is served in full.
func TestClientFinishesBeforeABackendAnswers(t *testing.T) {
	noLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()}, func(o *Options) { o.ConnectTimeout = time.Hour })
	client, done := r.client()
	say(t, client, "question")
	check(t, client.CloseWrite())
	waitForSYN(t, silent.String())
	time.Sleep(2 * watchEvery) // not for a result: time in which to be taken for gone
	silent.wake(echo)
	hear(t, client, "question")
	wantEnding(t, "the client", client, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.ClientClosed, 8, 8)
}
