package handler

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// The tests in this file use real sockets on loopback, with each engine.

func TestUDPDatagramSizes(t *testing.T) { overEngines(t, testUDPDatagramSizes) }

func testUDPDatagramSizes(t *testing.T, engine dgram.Engine) {
	relaytest.NoLeaks(t)
	b := relaytest.NewUDPBackend(t, relaytest.Echo)
	r := newRig(t, []string{b.Addr}, withUDP(engine))
	for n, size := range []int{0, 1, 2, 512, 1472, 2048, 9000, 16000, 65507} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			client := new(udpClient)
			datagram := bytes.Repeat([]byte{byte(n + 1)}, size)
			for range 2 { // the second time in an open session
				r.deliver(n, client, string(datagram))
				relaytest.Eventually(t, "the echo", func() bool { return client.answers() == 1 })
				client.wants(t, string(datagram))
			}
		})
	}
	r.wantLines("backend failed, first strike", 0)
	r.service.Close()
}

func TestUDPTooLarge(t *testing.T) { overEngines(t, testUDPTooLarge) }

func testUDPTooLarge(t *testing.T, engine dgram.Engine) {
	b := relaytest.NewUDPBackend(t, relaytest.Echo)
	r := newRig(t, []string{b.Addr}, withUDP(engine))
	client := new(udpClient)
	r.deliver(1, client, string(make([]byte, 65508)), "fits")
	client.waitFor(t, "fits")
	r.wantStrikes(b.Addr, 0, upstream.Up)
}

func TestUDPOrder(t *testing.T) { overEngines(t, testUDPOrder) }

func testUDPOrder(t *testing.T, engine dgram.Engine) {
	relaytest.NoLeaks(t)
	b := relaytest.NewUDPBackend(t, relaytest.Echo)
	r := newRig(t, []string{b.Addr}, withUDP(engine))
	clients := make([]udpClient, 8)
	const each = 200
	for n := range each {
		for i := range clients {
			r.deliver(i, &clients[i], fmt.Sprint(n))
			// The kernel's queue is short: wait for the answers to all but three.
			relaytest.Eventually(t, "echo", func() bool { return clients[i].answers() > n-4 })
		}
	}
	for i := range clients {
		want := make([]string, each)
		for n := range want {
			want[n] = fmt.Sprint(n)
		}
		clients[i].waitFor(t, want...)
	}
	r.service.Close()
}

func TestUDPDeadPort(t *testing.T) { overEngines(t, testUDPDeadPort) }

func testUDPDeadPort(t *testing.T, engine dgram.Engine) {
	t.Run("the first datagram is answered by the second backend", func(t *testing.T) {
		relaytest.NoLeaks(t)
		b := relaytest.NewUDPBackend(t, relaytest.Echo)
		r := newRig(t, []string{deadAddr, b.Addr}, withUDP(engine))
		client := new(udpClient)
		r.deliver(1, client, "a")
		client.waitFor(t, "a")
		r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "client refused", 0)
		r.wantStrikes(deadAddr, 0, upstream.Down)
		if got := r.service.Pool.Order(); got[0] != b.Addr {
			t.Fatalf("order %v", got)
		}
		r.service.Close()
	})
	t.Run("no datagram of a burst is lost or reordered", func(t *testing.T) {
		relaytest.NoLeaks(t)
		b := relaytest.NewUDPBackend(t, relaytest.Echo)
		r := newRig(t, []string{deadAddr, deadAddr2, b.Addr}, withUDP(engine))
		client := new(udpClient)
		var burst []string
		for i := range 16 {
			burst = append(burst, fmt.Sprint(i))
		}
		r.deliver(1, client, burst...)
		client.waitFor(t, burst...)
		r.service.Close()
	})
	t.Run("on all backends: refused, and a new round after a second", func(t *testing.T) {
		relaytest.NoLeaks(t)
		r := newRig(t, []string{deadAddr, deadAddr2}, withUDP(engine))
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.line("client refused")
		r.line("all backends unavailable")
		b := relaytest.NewUDPBackend(t, relaytest.Echo)
		r.service.Pool.Update(backendAddresses(t, deadAddr, deadAddr2, b.Addr), 0)
		relaytest.Eventually(t, "an answer in the new round", func() bool {
			r.deliver(1, client, "b")
			return client.answers() > 0
		})
		r.service.Close()
	})
	t.Run("a session whose backend dies resends its unanswered datagrams to the next one", func(t *testing.T) {
		relaytest.NoLeaks(t)
		dies, lives := relaytest.NewUDPBackend(t, relaytest.Echo), relaytest.NewUDPBackend(t, relaytest.Echo)
		r := newRig(t, []string{dies.Addr, lives.Addr}, withUDP(engine))
		client := new(udpClient)
		r.deliver(1, client, "a")
		client.waitFor(t, "a")
		relaytest.Check(t, dies.Conn.Close())
		r.deliver(1, client, "b", "c")
		client.waitFor(t, "b", "c")
		if got := relaytest.Receive(t, "datagram", lives.Received); got != "b" {
			t.Fatalf("the second backend got %q first", got)
		}
		r.service.Close()
	})
	t.Run("another address of the backend answers: no strike", func(t *testing.T) {
		relaytest.NoLeaks(t)
		b := relaytest.NewUDPBackend(t, relaytest.Echo)
		_, port, err := net.SplitHostPort(b.Addr)
		relaytest.Check(t, err)
		r := newRig(t, []string{"a.example:" + port}, withUDP(engine))
		r.resolver.setCached("a.example", "::1", "127.0.0.1") // no server on ::1, if there is IPv6
		client := new(udpClient)
		r.deliver(1, client, "a")
		client.waitFor(t, "a")
		r.wantLines("backend failed, first strike", 0)
		r.service.Close()
	})
}

func TestUDPManyClients(t *testing.T) { overEngines(t, testUDPManyClients) }

func testUDPManyClients(t *testing.T, engine dgram.Engine) {
	relaytest.NoLeaks(t)
	b := relaytest.NewUDPBackend(t, relaytest.Echo)
	r := newRig(t, []string{deadAddr, b.Addr}, withUDP(engine), func(o *Options) { o.UDPReplyTimeout = 5 * time.Second })
	clients := make([]udpClient, 100)
	for i := range clients {
		r.deliver(i, &clients[i], "a")
	}
	for i := range clients {
		clients[i].waitFor(t, "a")
	}
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "client refused", 0)
	r.service.Close()
	for i := range clients {
		clients[i].wantReleased(t, 1)
	}
}

// Datagrams that are sent in one call come back unchanged, with each feature
// switched off.
func TestUDPGroups(t *testing.T) {
	for _, off := range []string{"", "gso", "batch", "engine", "batch,gso,engine"} {
		t.Run("off="+off, func(t *testing.T) {
			relaytest.NoLeaks(t)
			t.Setenv("RELAY_DISABLE", off)
			engine := dgram.NewEngine(nil)
			if _, plain := engine.(dgram.Goroutines); strings.Contains(off, "engine") && !plain {
				t.Fatalf("%T", engine)
			}
			b := relaytest.NewUDPBackend(t, relaytest.Echo)
			r := newRig(t, []string{b.Addr}, withUDP(engine))
			client := new(udpClient)
			for round, sizes := range [][]int{{100, 100, 100, 100}, {1200, 1200, 3}, {0}, {1, 0, 65507, 2, 2}} {
				var want []string
				for i, size := range sizes {
					want = append(want, strings.Repeat(fmt.Sprint(round%10, i%10)[:1], size))
				}
				r.group(1, client, want...)
				client.waitFor(t, want...)
			}
			r.service.Close()
		})
	}
}
