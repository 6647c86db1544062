package module_test

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Reloads under load do not touch established relays and leak nothing. Only
// connections in the queue of caddy-l4's listener fail: they are reset before they
// are accepted.
func TestReloadUnderLoad(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, _ := echoTCP(t, "b")
		dead, at := freeAddr(t), freeAddr(t)
		relay := func(idle int) string {
			return block("TCP/"+at, fmt.Sprintf("%s %s {\n name load\n idle_timeout %dm\n }", dead, backend, 1+idle%5))
		}
		before := runtime.NumGoroutine()
		s := start(t, relay(0))

		established := make([]net.Conn, 8)
		for i := range established {
			established[i] = dial(t, "tcp", at)
			ask(t, established[i], "begin")
		}
		var served, lost atomic.Int64
		stop := make(chan struct{})
		var workers sync.WaitGroup
		for range 4 {
			workers.Go(func() {
				buf := make([]byte, 100)
				for {
					select {
					case <-stop:
						return
					default:
					}
					conn, err := net.Dial("tcp", at)
					if err != nil {
						lost.Add(1)
						continue
					}
					_, _ = conn.Write([]byte("x"))
					if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "b x" {
						lost.Add(1)
					} else {
						served.Add(1)
					}
					conn.Close()
				}
			})
		}
		for i := range 20 {
			if err := s.reload(relay(i + 1)); err != nil {
				t.Error(err)
			}
			for _, conn := range established {
				if got := ask(t, conn, "still"); got != "b still" {
					t.Fatalf("an established relay got %q after reload %d", got, i+1)
				}
			}
		}
		close(stop)
		workers.Wait()
		t.Logf("%d served, %d lost while listeners changed", served.Load(), lost.Load())
		if lost.Load() > 0 && over == ours {
			t.Errorf("%d lost, where none may be", lost.Load())
		}
		if served.Load() == 0 {
			t.Error("no client was served")
		}
		if n := len(s.lines("client refused")); n != 0 {
			t.Errorf("the relay refused clients: %d lines", n)
		}
		for _, conn := range established {
			conn.Close()
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		relaytest.Eventually(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before+2 })
	})
}

func TestFiveThousandConnections(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		// This process has the client, both sides of the relay and the backend.
		clients := min(5000, (descriptorLimit(t)-1500)/4)
		backend, _ := echoTCP(t, "b")
		at := freeAddr(t)
		before := runtime.NumGoroutine()
		s := start(t, block("TCP/"+at, backend))
		conns := make([]net.Conn, clients)
		for i := range conns {
			conns[i] = dial(t, "tcp", at)
		}
		for i, conn := range conns {
			if got := ask(t, conn, "x"); got != "b x" {
				t.Fatalf("client %d got %q", i, got)
			}
		}
		for _, conn := range conns {
			conn.Close()
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		relaytest.Eventually(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before+2 })
	})
}
