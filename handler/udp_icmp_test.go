package handler

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file runs over real sockets on loopback, with each of the built-in engines.

func TestUDPDatagramSizes(t *testing.T) { overEngines(t, testUDPDatagramSizes) }

func testUDPDatagramSizes(t *testing.T, engine dgram.Engine) {
	noLeaks(t)
	b := newUDPBackend(t, echoDatagram)
	r := newRig(t, []string{b.addr}, withUDP(engine))
	for n, size := range []int{0, 1, 2, 512, 1472, 2048, 9000, 16000, 65507} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			client := new(udpClient)
			datagram := bytes.Repeat([]byte{byte(n + 1)}, size)
			for range 2 { // the second on the established path
				r.deliver(n, client, string(datagram))
				eventually(t, "the echo", func() bool { return client.answers() == 1 })
				client.wants(t, string(datagram))
			}
		})
	}
	r.wantLines("backend failed, first strike", 0)
	r.service.Close()
}

func TestUDPTooBigForTheWay(t *testing.T) { overEngines(t, testUDPTooBigForTheWay) }

func testUDPTooBigForTheWay(t *testing.T, engine dgram.Engine) {
	b := newUDPBackend(t, echoDatagram)
	r := newRig(t, []string{b.addr}, withUDP(engine))
	client := new(udpClient)
	r.deliver(1, client, string(make([]byte, 65508)), "fits")
	client.waitFor(t, "fits")
	r.wantStrikes(b.addr, 0, upstream.Up)
}

func TestUDPOrder(t *testing.T) { overEngines(t, testUDPOrder) }

func testUDPOrder(t *testing.T, engine dgram.Engine) {
	noLeaks(t)
	b := newUDPBackend(t, echoDatagram)
	r := newRig(t, []string{b.addr}, withUDP(engine))
	clients := make([]udpClient, 8)
	const each = 200
	for n := range each {
		for i := range clients {
			r.deliver(i, &clients[i], fmt.Sprint(n))
			// The kernel's queue is short: no more under way than fits.
			eventually(t, "echo", func() bool { return clients[i].answers() > n-4 })
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
	t.Run("the very first datagram is answered by the second backend", func(t *testing.T) {
		noLeaks(t)
		b := newUDPBackend(t, echoDatagram)
		r := newRig(t, []string{deadAddr, b.addr}, withUDP(engine))
		client := new(udpClient)
		r.deliver(1, client, "a")
		client.waitFor(t, "a")
		r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "client refused", 0)
		r.wantStrikes(deadAddr, 0, upstream.Down)
		if got := r.service.Pool.Order(); got[0] != b.addr {
			t.Fatalf("order %v", got)
		}
		r.service.Close()
	})
	t.Run("of a burst nothing is lost, in order", func(t *testing.T) {
		noLeaks(t)
		b := newUDPBackend(t, echoDatagram)
		r := newRig(t, []string{deadAddr, deadAddr2, b.addr}, withUDP(engine))
		client := new(udpClient)
		var burst []string
		for i := range 16 {
			burst = append(burst, fmt.Sprint(i))
		}
		r.deliver(1, client, burst...)
		client.waitFor(t, burst...)
		r.service.Close()
	})
	t.Run("everywhere: refused, one second later a new round", func(t *testing.T) {
		noLeaks(t)
		r := newRig(t, []string{deadAddr, deadAddr2}, withUDP(engine))
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.line("client refused")
		r.line("all backends unavailable")
		b := newUDPBackend(t, echoDatagram)
		r.service.Pool.Update(backendAddresses(t, deadAddr, deadAddr2, b.addr), 0)
		eventually(t, "an answer after the second", func() bool {
			r.deliver(1, client, "b")
			return client.answers() > 0
		})
		r.service.Close()
	})
	t.Run("a session whose backend dies moves with what was not answered", func(t *testing.T) {
		noLeaks(t)
		dies, lives := newUDPBackend(t, echoDatagram), newUDPBackend(t, echoDatagram)
		r := newRig(t, []string{dies.addr, lives.addr}, withUDP(engine))
		client := new(udpClient)
		r.deliver(1, client, "a")
		client.waitFor(t, "a")
		check(t, dies.conn.Close())
		r.deliver(1, client, "b", "c")
		client.waitFor(t, "b", "c")
		if got := receiveFrom(t, "datagram", lives.got); got != "b" {
			t.Fatalf("the second backend got %q first", got)
		}
		r.service.Close()
	})
	t.Run("another address of the name answers: no strike", func(t *testing.T) {
		noLeaks(t)
		b := newUDPBackend(t, echoDatagram)
		_, port, err := net.SplitHostPort(b.addr)
		check(t, err)
		r := newRig(t, []string{"a.example:" + port}, withUDP(engine))
		r.resolver.setCached("a.example", "::1", "127.0.0.1") // nobody is on ::1, if there is IPv6 at all
		client := new(udpClient)
		r.deliver(1, client, "a")
		client.waitFor(t, "a")
		r.wantLines("backend failed, first strike", 0)
		r.service.Close()
	})
}

func TestUDPManyClients(t *testing.T) { overEngines(t, testUDPManyClients) }

func testUDPManyClients(t *testing.T, engine dgram.Engine) {
	noLeaks(t)
	b := newUDPBackend(t, echoDatagram)
	r := newRig(t, []string{deadAddr, b.addr}, withUDP(engine), func(o *Options) { o.UDPReplyTimeout = 5 * time.Second })
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
