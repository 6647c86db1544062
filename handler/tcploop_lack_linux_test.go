package handler

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/upstream"
)

// blind has a loop find no room in its epoll, until the end is called.
func blind(t *testing.T, l *tcpLoop) (end func()) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.poll == nil {
		t.Fatal("the loop does not run")
	}
	epoll := l.epoll
	l.epoll = -1
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.epoll = epoll
	}
}

// A loop that cannot take a relay in resets both sides of it, says why, and
// leaves the others alone.
func TestLoopWithoutRoom(t *testing.T) {
	noLeaks(t)
	server, conns := handOver(t, "127.0.0.1:0")
	engine := oneLoop()
	r := newRig(t, []string{server.String()}, with(engine))
	first, _ := r.client()
	firstBackend := receiveFrom(t, "a connection", conns)
	say(t, first, "hello")
	hear(t, firstBackend, "hello")
	say(t, firstBackend, "hi") // which only the loop brings back
	hear(t, first, "hi")

	before := descriptors(t)
	end := blind(t, engine.tcp[0])
	client, done := r.client()
	backend := receiveFrom(t, "a connection", conns)
	wantEnding(t, "the client", client, "RST")
	wantEnding(t, "its backend", backend, "RST")
	receiveFrom(t, "the end", done)
	end()
	r.wantReasons(exhausted)
	r.wantLines("out of descriptors, memory or ports", 1, "backend failed, first strike", 0, "relay ended by a panic", 0)
	if use := r.service.Stats(time.Now()).Backends[0].Use[upstream.TCP]; use.Active != 1 || use.Connections != 2 {
		t.Errorf("booked: %+v", use)
	}
	check(t, client.Close())
	check(t, backend.Close())
	eventually(t, "all descriptors", func() bool { return descriptors(t) <= before })

	say(t, first, "calm")
	hear(t, firstBackend, "calm")
	second, _ := r.client()
	say(t, second, "again")
	hear(t, receiveFrom(t, "a connection", conns), "again")
}

// A client whose socket is not to be had is served the portable way.
func TestClientThatCannotBeDetached(t *testing.T) {
	noLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{live.String()}, onOneLoop())
	near, far := tcpPair(t)
	c := plain(far)
	c.Detach = func() (int, error) { return -1, unix.EMFILE }
	done := r.serve(context.Background(), c)
	say(t, near, "question")
	hear(t, near, "question")
	r.service.mu.Lock()
	relay := r.service.relays
	r.service.mu.Unlock()
	relay.mu.Lock()
	if _, portable := relay.carrier.(*link); !portable {
		t.Errorf("carried by %T", relay.carrier)
	}
	relay.mu.Unlock()
	check(t, near.CloseWrite())
	receiveFrom(t, "the end", done)
	r.wantEnd(clientClosed, 8, 8)
}

// Relays come and go while loops stop and start: each is served, and in the end
// nothing is left.
func TestLoopsOfRelaysComeAndGo(t *testing.T) {
	noLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", greet("hello"))
	engine := oneLoop()
	r := newRig(t, []string{server.String()}, with(engine))
	l := engine.tcp[0]
	for i := range 30 {
		var clients [4]*net.TCPConn
		for n := range clients {
			clients[n], _ = r.client()
		}
		for _, client := range clients {
			hear(t, client, "hello")
			resetNow(t, client)
		}
		if i%3 > 0 {
			eventually(t, "the end of all", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
			l.stopIdle() // as its timer does, but not a moment later
		}
	}
	eventually(t, "the loop to stop", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.poll == nil && l.count == 0
	})
}
