package handler

import (
	"net"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file is what a drain means to TCP relays.

// draining waits until a drain has counted whom it waits for.
func (r *rig) draining() {
	r.t.Helper()
	eventually(r.t, "the drain", func() bool { return r.service.ends.watchers.Load() > 0 })
}

func TestDrainLetsRelaysFinish(t *testing.T) {
	noLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{server.String()})
	client, _ := r.client()
	say(t, client, "before")
	hear(t, client, "before")
	done := r.service.drainIn(limit)
	r.draining()
	say(t, client, "during")
	hear(t, client, "during")

	late, over := r.client()
	wantEnding(t, "a late client", late, "RST")
	receiveFrom(t, "its end", over)
	if server.count() != 1 {
		t.Error("the late client came through")
	}

	check(t, client.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	if got := receiveFrom(t, "the drain", done); got.finished != 1 || got.cut != 0 {
		t.Errorf("%+v", got)
	}
	r.wantReasons(clientClosed)
}

func TestDrainCuts(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"after the timeout": 100 * time.Millisecond, "at once": 0, "at once, timeout below 0": -1} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			server, conns := handOver(t, "127.0.0.1:0")
			r := newRig(t, []string{server.String()})
			var clients, backends [2]*net.TCPConn
			for i := range clients {
				clients[i], _ = r.client()
				backends[i] = receiveFrom(t, "a connection", conns)
			}
			check(t, clients[1].CloseWrite()) // one way is over, the other open: cut it is
			if n, err := backends[1].Read(make([]byte, 1)); n != 0 || err == nil {
				t.Fatal("no end of the way up")
			}
			r.waitLinked(2)
			got := receiveFrom(t, "the drain", r.service.drainIn(timeout))
			if got.finished != 0 || got.cut != 2 || got.took < timeout {
				t.Errorf("%+v", got)
			}
			for i := range clients {
				wantEnding(t, "the client", clients[i], "RST")
			}
			wantEnding(t, "the backend", backends[0], "RST")
			r.wantReasons(shutdown, shutdown)
		})
	}
}

func TestDrainCounts(t *testing.T) {
	noLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", greet("hello"))
	r := newRig(t, []string{server.String()})
	var clients [5]*net.TCPConn
	for i := range clients {
		clients[i], _ = r.client()
		hear(t, clients[i], "hello")
	}
	done := r.service.drainIn(2 * time.Second)
	r.draining()
	for _, client := range clients[:2] {
		check(t, client.CloseWrite())
		wantEnding(t, "the client", client, "FIN")
	}
	for _, client := range clients[2:] {
		wantEnding(t, "the client", client, "RST")
	}
	if got := receiveFrom(t, "the drain", done); got.finished != 2 || got.cut != 3 {
		t.Errorf("%+v", got)
	}
	if got := receiveFrom(t, "another", r.service.drainIn(limit)); got.finished != 0 || got.cut != 0 {
		t.Errorf("nobody is there: %+v", got)
	}
}

// Clients that still search for a backend are reset; what is done for them ends.
func TestDrainCutsWhoSearches(t *testing.T) {
	t.Run("a name that hangs", func(t *testing.T) {
		noLeaks(t)
		r := newRig(t, []string{"a.test:80"})
		r.resolver.set("a.test", hangAnswer)
		client, over := r.client()
		eventually(t, "the question", func() bool { return len(r.resolver.questions("a.test")) > 0 })
		r.cutsTheSearcher(client, over, "a.test:80")
	})
	t.Run("a backend that is silent", func(t *testing.T) {
		noLeaks(t)
		silent := newSilentTCP(t, lo(t, 1)+":0")
		r := newRig(t, []string{silent.String()})
		client, over := r.client()
		waitForSYN(t, silent.String())
		r.cutsTheSearcher(client, over, silent.String())
	})
}

func (r *rig) cutsTheSearcher(client net.Conn, over <-chan struct{}, backend string) {
	t := r.t
	t.Helper()
	if got := receiveFrom(t, "the drain", r.service.drainIn(0)); got.finished != 0 || got.cut != 1 || got.took > limit/2 {
		t.Errorf("%+v", got)
	}
	wantEnding(t, "the client", client, "RST")
	receiveFrom(t, "the end", over)
	r.wantReasons(shutdown)
	r.wantLines("client refused", 0)
	if s := r.status(backend, upstream.TCP); s.Failed != 0 || s.Strikes != 0 {
		t.Errorf("the backend is blamed: %+v", s)
	}
}
