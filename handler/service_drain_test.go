package handler

import (
	"net"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file tests drains with TCP relays.

// waitDraining waits until a drain has counted the relays that it waits for.
func (r *rig) waitDraining() {
	r.t.Helper()
	relaytest.Eventually(r.t, "the drain", func() bool { return r.service.ends.subscribers.Load() > 0 })
}

func TestDrainLetsRelaysFinish(t *testing.T) {
	relaytest.NoLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{server.String()})
	client, _ := r.client()
	relaytest.Write(t, client, "before")
	relaytest.WantRead(t, client, "before")
	done := r.service.drainIn(relaytest.Limit)
	r.waitDraining()
	relaytest.Write(t, client, "during")
	relaytest.WantRead(t, client, "during")

	late, ended := r.client()
	wantEnding(t, "a late client", late, "RST")
	relaytest.Receive(t, "its end", ended)
	if server.count() != 1 {
		t.Error("the late client reached the backend")
	}

	relaytest.Check(t, client.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	if got := relaytest.Receive(t, "the drain", done); got.finished != 1 || got.cut != 0 {
		t.Errorf("%+v", got)
	}
	r.wantReasons(stream.ClientClosed)
}

func TestDrainCuts(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"after the timeout": 100 * time.Millisecond, "at once": 0, "at once, timeout below 0": -1} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			server, conns := acceptTCP(t, "127.0.0.1:0")
			r := newRig(t, []string{server.String()})
			var clients, backends [2]*net.TCPConn
			for i := range clients {
				clients[i], _ = r.client()
				backends[i] = relaytest.Receive(t, "a connection", conns)
			}
			relaytest.Check(t, clients[1].CloseWrite()) // one direction has ended, the other is open: the relay is cut
			if n, err := backends[1].Read(make([]byte, 1)); n != 0 || err == nil {
				t.Fatal("no end of the direction to the backend")
			}
			r.waitLinked(2)
			got := relaytest.Receive(t, "the drain", r.service.drainIn(timeout))
			if got.finished != 0 || got.cut != 2 || got.took < timeout {
				t.Errorf("%+v", got)
			}
			for i := range clients {
				wantEnding(t, "the client", clients[i], "RST")
			}
			wantEnding(t, "the backend", backends[0], "RST")
			r.wantReasons(stream.Shutdown, stream.Shutdown)
		})
	}
}

func TestDrainCounts(t *testing.T) {
	relaytest.NoLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", greet("hello"))
	r := newRig(t, []string{server.String()})
	var clients [5]*net.TCPConn
	for i := range clients {
		clients[i], _ = r.client()
		relaytest.WantRead(t, clients[i], "hello")
	}
	done := r.service.drainIn(2 * time.Second)
	r.waitDraining()
	for _, client := range clients[:2] {
		relaytest.Check(t, client.CloseWrite())
		wantEnding(t, "the client", client, "FIN")
	}
	for _, client := range clients[2:] {
		wantEnding(t, "the client", client, "RST")
	}
	if got := relaytest.Receive(t, "the drain", done); got.finished != 2 || got.cut != 3 {
		t.Errorf("%+v", got)
	}
	if got := relaytest.Receive(t, "another", r.service.drainIn(relaytest.Limit)); got.finished != 0 || got.cut != 0 {
		t.Errorf("drain without relays: %+v", got)
	}
}

// Clients that still search for a backend are reset, and their search ends.
func TestDrainCutsSearchingClients(t *testing.T) {
	t.Run("hanging name", func(t *testing.T) {
		relaytest.NoLeaks(t)
		r := newRig(t, []string{"a.test:80"})
		r.resolver.set("a.test", hangAnswer)
		client, ended := r.client()
		relaytest.Eventually(t, "the lookup", func() bool { return len(r.resolver.callsFor("a.test")) > 0 })
		r.wantSearchCut(client, ended, "a.test:80")
	})
	t.Run("silent backend", func(t *testing.T) {
		relaytest.NoLeaks(t)
		silent := newSilentTCP(t, lo(t, 1)+":0")
		r := newRig(t, []string{silent.String()})
		client, ended := r.client()
		waitForSYN(t, silent.String())
		r.wantSearchCut(client, ended, silent.String())
	})
}

// wantSearchCut drains without a timeout and checks that the client is reset
// without blaming the backend.
func (r *rig) wantSearchCut(client net.Conn, ended <-chan struct{}, backend string) {
	t := r.t
	t.Helper()
	if got := relaytest.Receive(t, "the drain", r.service.drainIn(0)); got.finished != 0 || got.cut != 1 || got.took > relaytest.Limit/2 {
		t.Errorf("%+v", got)
	}
	wantEnding(t, "the client", client, "RST")
	relaytest.Receive(t, "the end", ended)
	r.wantReasons(stream.Shutdown)
	r.wantLines("client refused", 0)
	if s := r.status(backend, upstream.TCP); s.Failed != 0 || s.Strikes != 0 {
		t.Errorf("the failure counts against the backend: %+v", s)
	}
}
