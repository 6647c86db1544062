package module_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A flood of datagrams from spoofed sources must not cost other clients their
// datagrams and must not exhaust memory. The flood comes from the same machine, so
// it waits whenever the process falls behind: losses are then not due to lack of
// CPU time. With RELAY_SOAK it does not wait and sends 20,000 datagrams a second.
func TestFloodOfSpoofedSources(t *testing.T) {
	if netio.Disabled("engine") {
		t.Skip("counts goroutines, which sessions are without the engine")
	}
	const perSecond = 20_000
	sources, waits := 20_000, true
	if os.Getenv("RELAY_SOAK") != "" {
		sources, waits = 200_000, false
	}
	backend, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: freePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	_ = backend.SetReadBuffer(8 << 20)
	defer backend.Close()
	go func() { // answers known clients, as a service would
		buf := make([]byte, 100)
		for {
			n, from, err := backend.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if n == 8 {
				_, _ = backend.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}()
	port := freePort(t)
	at := fmt.Sprintf("127.0.0.1:%d", port)
	start(t, fmt.Sprintf("relay+udp/%s {\n route {\n relay %s {\n name flooded\n max_udp_sessions 1000\n idle_timeout 2s\n }\n }\n }", at, backend.LocalAddr()))

	// Established clients: each sends a number and expects it back.
	const established = 20
	var sent, answered atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range established {
		conn := dial(t, "udp", at)
		if keepAsking(t, conn, "\x00\x00\x00\x00\x00\x00\x00\x00") == "" {
			t.Fatal("no answer")
		}
		clients.Go(func() {
			buf, got := make([]byte, 8), make([]byte, 100)
			for n := uint64(1); ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				binary.BigEndian.PutUint64(buf, n)
				sent.Add(1)
				_, _ = conn.Write(buf)
				_ = conn.SetReadDeadline(time.Now().Add(relaytest.Limit))
				for {
					if _, err := conn.Read(got); err != nil {
						break
					}
					if binary.BigEndian.Uint64(got) == n {
						answered.Add(1)
						break
					}
				}
			}
		})
	}

	flood, err := net.ListenUDP("udp4", &net.UDPAddr{Port: freePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	half := uint64(0)
	began := time.Now()
	probe, quiet := dial(t, "udp", at), runtime.NumGoroutine()
	for i := range sources {
		// A different loopback source for each datagram.
		info := unix.Inet4Pktinfo{Spec_dst: [4]byte{127, byte(1 + i>>16), byte(i >> 8), byte(i)}}
		if _, _, err := flood.WriteMsgUDP([]byte("flood"), unix.PktInfo4(&info), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}); err != nil {
			t.Fatal(err)
		}
		if i == sources/2 {
			half = inUse()
		}
		switch ahead := time.Duration(i)*time.Second/perSecond - time.Since(began); {
		case waits && i%100 == 0:
			ask(t, probe, "\x00\x00\x00\x00\x00\x00\x00\x00") // waits until the listener's queue is empty
			relaytest.Eventually(t, "the routes to be done with the flood", func() bool { return runtime.NumGoroutine() < quiet+500 })
		case !waits && ahead > time.Millisecond:
			time.Sleep(ahead)
		}
	}
	took := time.Since(began)
	end := inUse()
	close(stop)
	clients.Wait()
	lost := sent.Load() - answered.Load()
	t.Logf("%d sources in %s; established: %d sent, %d lost; memory %d MiB after half of them, %d MiB after all", sources, took.Round(time.Millisecond), sent.Load(), lost, half>>20, end>>20)
	if lost*1000 > sent.Load() {
		t.Errorf("established clients lost %d of %d datagrams, more than 0.1 %%", lost, sent.Load())
	}
	if end > half+half/4+(16<<20) {
		t.Errorf("memory grew from %d to %d bytes", half, end)
	}
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
