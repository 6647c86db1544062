package handler

import (
	"net"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/stream"
)

// shortIdle is an idle timeout for tests that wait for its end.
func shortIdle(o *Options) { o.IdleTimeout = 100 * time.Millisecond }

// tickingIdle is one that a tick every now and then keeps from ending, also on
// a machine that is busy.
func tickingIdle(o *Options) { o.IdleTimeout = time.Second }

func TestIdleTimeoutIsAnOrderlyEnd(t *testing.T) {
	r, client, backend, done := established(t, shortIdle)
	say(t, client, "hello")
	hear(t, backend, "hello")
	wantEnding(t, "the client", client, "FIN")
	wantEnding(t, "the backend", backend, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.IdleTimeout, 5, 0)
	if took := r.line("relay ended").ContextMap()["duration"].(time.Duration); took < 100*time.Millisecond {
		t.Errorf("ended after %v", took)
	}
}

// Half-closed relays idle out, too.
func TestIdleAfterHalfClose(t *testing.T) {
	r, client, backend, done := established(t, shortIdle)
	check(t, client.CloseWrite())
	wantEnding(t, "the backend", backend, "FIN")
	wantEnding(t, "the client", client, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.IdleTimeout, 0, 0)
}

// Bytes one way keep both ways open, for several idle timeouts: the silent
// side can still be heard afterwards.
func TestOneWayStreamLivesOn(t *testing.T) {
	r, client, backend, _ := established(t, tickingIdle)
	other, otherClient, otherBackend, _ := established(t, tickingIdle)
	for began := time.Now(); time.Since(began) < 3*r.relay.opts.IdleTimeout; time.Sleep(20 * time.Millisecond) {
		say(t, backend, "down")
		hear(t, client, "down")
		say(t, otherClient, "up")
		hear(t, otherBackend, "up")
	}
	say(t, client, "still here")
	hear(t, backend, "still here")
	say(t, otherBackend, "still here")
	hear(t, otherClient, "still here")
	r.wantLines("relay ended", 0)
	other.wantLines("relay ended", 0)
}

// sendUntilFull sends until no more is accepted, and returns how many bytes were.
func sendUntilFull(t *testing.T, conn *net.TCPConn) (sent int) {
	t.Helper()
	piece := make([]byte, 1<<20)
	for {
		check(t, conn.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := conn.Write(piece)
		sent += n
		switch {
		case err == nil, isTimeout(err) && n > 0:
		case isTimeout(err):
			return sent
		default:
			t.Fatal(err)
		}
	}
}

// A peer that stopped reading holds a relay for the idle timeout and no
// longer, whatever the other side would still like to send.
func TestWriteToAPeerThatStoppedReading(t *testing.T) {
	for _, name := range []string{"client", "backend"} {
		t.Run(name, func(t *testing.T) {
			r, client, backend, done := established(t, tickingIdle) // long enough to fill it
			talker := backend
			if name == "backend" {
				talker = client
			}
			sendUntilFull(t, talker)
			receiveFrom(t, "the end", done)
			if got := r.line("relay ended").ContextMap()["reason"]; got != string(stream.IdleTimeout) {
				t.Errorf("ended by %v", got)
			}
			// The silent side lacks bytes: a FIN would make what it has look complete.
			wantEnding(t, "the talker", talker, "FIN")
			silent := client
			if name == "backend" {
				silent = backend
			}
			wantEnding(t, "the "+name, silent, "RST")
		})
	}
}
