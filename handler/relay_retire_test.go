package handler

import (
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A retired relay takes no client and leaves it as it is, so that another relay of
// the service can take it. Its clients and sessions continue.
func TestRetiredRelay(t *testing.T) {
	r, server := rigOfBoth(t, func(o *Options) { o.MaxConnections = 3 })
	known := udpKey(1)
	tcp := r.wantServed(known)
	next := New(r.service, r.relay.opts)
	r.relay.Retire()

	near, far := relaytest.TCPPair(t)
	client := plainClient(far)
	for range 2 {
		if r.relay.StartTCP(t.Context(), client) || r.relay.ServeTCP(t.Context(), client) {
			t.Fatal("a retired relay took a TCP client")
		}
	}
	replier := new(udpClient)
	if session, taken := r.relay.Deliver(udpKey(2), [][]byte{[]byte("question")}, replier); taken || session != (Session{}) {
		t.Error("a retired relay took a UDP client")
	}
	replier.wantReleased(t, 0)
	if n := r.service.admission.total; n != 2 {
		t.Errorf("%d places taken, want those of two clients", n)
	}

	if !next.StartTCP(t.Context(), client) {
		t.Error("the other relay did not take the TCP client")
	}
	relaytest.WantRead(t, near, "hello")
	if server.count() != 2 {
		t.Errorf("the backend saw %d clients", server.count())
	}
	relaytest.Check(t, tcp.Close())
	relaytest.Eventually(t, "the end of the first", func() bool { n, _ := r.service.Active(); return n == 1 })
	if _, taken := next.Deliver(udpKey(2), [][]byte{[]byte("question")}, replier); !taken {
		t.Error("the other relay did not take the UDP client")
	}
	relaytest.Eventually(t, "an answer", func() bool { return replier.answers() == 1 })
	again := new(udpClient)
	if _, taken := r.relay.Deliver(known, [][]byte{[]byte("question")}, again); !taken {
		t.Error("the session of a client has ended")
	}
	relaytest.Eventually(t, "an answer", func() bool { return again.answers() == 1 })
}

// A client that a relay holds at a limit when it is retired is served once there is
// room. The service is not idle until then.
func TestRetiredRelayServesQueuedClient(t *testing.T) {
	r, _ := rigOfBoth(t, func(o *Options) { o.MaxConnections = 1 })
	near, far := relaytest.TCPPair(t)
	relaytest.Check(t, r.service.beginWait(r.relay))
	r.relay.Retire()
	if r.service.Idle() {
		t.Error("idle with a queued client")
	}
	if err := r.service.beginWait(r.relay); err != errRetired {
		t.Errorf("a retired relay holds another client: %v", err)
	}
	queued := r.service.admission.enqueue(&r.relay.opts, ipOf(far.RemoteAddr())) // there is room already
	client := &tcpRelay{relay: r.relay, client: far.RemoteAddr(), local: far.LocalAddr()}
	if serve := client.startQueued(t.Context(), plainClient(far), queued, RefusedTooMany); serve != nil {
		go serve() // ends with the relay
	}
	relaytest.WantRead(t, near, "hello")
	relaytest.Check(t, near.Close())
	relaytest.Eventually(t, "the end", r.service.Idle)
	relaytest.Eventually(t, "the place to be free", func() bool {
		a := &r.service.admission
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.total == 0
	})
}
