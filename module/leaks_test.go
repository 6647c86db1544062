package module_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// usage holds the resources that could leak.
type usage struct {
	goroutines, descriptors int
	heap                    uint64 // bytes in use
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d KiB", u.goroutines, u.descriptors, u.heap>>10)
}

func used() usage {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{goroutines: runtime.NumGoroutine(), heap: m.HeapAlloc}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		u.descriptors = len(fds)
	}
	return u
}

// settled waits until the usage is as before. It tolerates a little more, for pools
// and for idle connections of the HTTP client.
func settled(t *testing.T, before usage) {
	t.Helper()
	const room = 1 << 20
	var now usage
	defer func() { t.Logf("before: %v; after: %v", before, now) }()
	relaytest.Eventually(t, "the usage to be as before", func() bool {
		now = used()
		return now.goroutines <= before.goroutines+5 && now.descriptors <= before.descriptors+5 && now.heap <= before.heap+room
	})
}

// clients runs many clients. Each worker makes one connection or session after the
// other.
func clients(t *testing.T, at string, connections, sessions int) {
	t.Helper()
	const workers = 20
	failures := make(chan error, workers)
	work := func(network string, n int) error {
		buf := make([]byte, 100)
		for i := range n {
			conn, err := net.Dial(network, at)
			if err != nil {
				return err
			}
			_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
			if _, err = conn.Write([]byte("x")); err == nil {
				_, err = conn.Read(buf)
			}
			conn.Close()
			if err != nil {
				return fmt.Errorf("%s client %d: %w", network, i, err)
			}
		}
		return nil
	}
	for range workers / 2 {
		go func() { failures <- work("tcp", connections/(workers/2)) }()
		go func() { failures <- work("udp", sessions/(workers/2)) }()
	}
	for range workers {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
}

func TestNothingLeaksOverReloads(t *testing.T) {
	rounds := 50
	if _, long := soak(t, 0); long {
		rounds = 1000
	}
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	at, other := freeAddr(t), freeAddr(t)
	config := func(round int) string {
		c := bothAt(at, fmt.Sprintf("%s {\n name stays\n udp_responses 1\n idle_timeout %ds\n }", backend, 1+round%2))
		if round%3 == 0 { // a service that is removed and returns, with its listeners
			c += bothAt(other, backend+" {\n name comes\n udp_responses 1\n idle_timeout 1s\n }")
		}
		return c
	}
	s := start(t, config(0))
	// One relay belongs to the service that stays, one to the service that is removed.
	stays, goes := dial(t, "tcp", at), dial(t, "tcp", other)
	for _, conn := range []net.Conn{stays, goes} {
		ask(t, conn, "first") // a connection in the queue of a removed listener would be reset
	}
	stop := make(chan struct{})
	kept := make(chan struct{})
	go func() { // keeps them from becoming idle
		defer close(kept)
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
			for _, conn := range []net.Conn{stays, goes} {
				_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
				buf := make([]byte, 100)
				_, _ = conn.Write([]byte("still"))
				if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "b still" {
					t.Errorf("an established relay got %q, %v", buf[:n], err)
					return
				}
			}
		}
	}()
	round := 0
	reload := func(n int) {
		for range n {
			round++
			s.mustReload(config(round))
			clients(t, at, 20, 20)
		}
	}
	reload(6) // pools and caches fill
	before := used()
	reload(rounds / 6 * 6)
	settled(t, before)
	close(stop)
	<-kept
}

func TestNothingLeaksOverClients(t *testing.T) {
	n := 4000
	if _, long := soak(t, 0); long {
		n = 100_000
	}
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	at := freeAddr(t)
	start(t, bothAt(at, backend+" {\n name many\n udp_responses 1\n idle_timeout 2s\n }"))
	clients(t, at, 1000, 1000)
	before := used()
	began := time.Now()
	clients(t, at, n, n)
	t.Logf("%d connections and %d sessions in %v", n, n, time.Since(began).Round(time.Millisecond))
	settled(t, before)
}
