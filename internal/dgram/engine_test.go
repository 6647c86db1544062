package dgram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestEngineManySockets(t *testing.T) { overEngines(t, testEngineManySockets) }

// Each of many sockets receives its own datagrams only, in order.
func testEngineManySockets(t *testing.T, engine Engine) {
	relaytest.NoLeaks(t)
	backend := relaytest.NewUDPBackend(t, relaytest.Echo)
	const sockets, each = 300, 20
	sinks := make([]collector, sockets)
	list := make([]Socket, sockets)
	for i := range list {
		list[i] = openSocket(t, engine, backend.Addr, &sinks[i])
	}
	for n := range each {
		for i, socket := range list {
			relaytest.Check(t, send(socket, []byte(fmt.Sprint(i, n))))
			if i%50 == 49 { // the backend's receive queue is short
				relaytest.Eventually(t, "the echo", func() bool { got, _ := sinks[i].count(); return got > n })
			}
		}
	}
	for i := range sinks {
		relaytest.Eventually(t, "all echoes", func() bool { got, _ := sinks[i].count(); return got == each })
		got, _ := sinks[i].received()
		for n, d := range got {
			if want := fmt.Sprint(i, n); string(d) != want {
				t.Fatalf("socket %d got %q, want %q", i, d, want)
			}
		}
		list[i].Close()
	}
}

func TestEngineSizes(t *testing.T) { overEngines(t, testEngineSizes) }

func testEngineSizes(t *testing.T, engine Engine) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		t.Run(addr, func(t *testing.T) {
			relaytest.NoLeaks(t)
			at := netip.MustParseAddrPort(addr)
			conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr().Unmap(), 0)))
			if err != nil && at.Addr() == netip.IPv6Loopback() {
				t.Skip(err)
			}
			relaytest.Check(t, err)
			defer conn.Close()
			to := netip.AddrPortFrom(at.Addr(), conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
			sink := new(collector)
			socket, err := engine.Open(to, sink)
			relaytest.Check(t, err)
			defer socket.Close()
			buf := make([]byte, 1<<16)
			for i, size := range []int{0, 1, 2, 512, 1472, 2048, 2049, 8999, 9000, 9001, 16000, 32768, 65507} {
				datagram := bytes.Repeat([]byte{byte(i + 1)}, size)
				relaytest.Check(t, send(socket, datagram))
				n, from, err := conn.ReadFromUDPAddrPort(buf)
				relaytest.Check(t, err)
				if !bytes.Equal(buf[:n], datagram) {
					t.Fatalf("%d bytes were sent, %d arrived", size, n)
				}
				_, err = conn.WriteToUDPAddrPort(datagram, from)
				relaytest.Check(t, err)
				relaytest.Eventually(t, "the answer", func() bool { got, _ := sink.count(); return got > i })
				if got, _ := sink.received(); !bytes.Equal(got[i], datagram) {
					t.Fatalf("%d bytes were sent, %d came back", size, len(got[i]))
				}
			}
			if err := send(socket, make([]byte, 65528)); !DatagramRejected(err) {
				t.Errorf("too large: %v", err)
			}
		})
	}
}

func TestEngineReportsErrors(t *testing.T) { overEngines(t, testEngineReportsErrors) }

// An ICMP error reaches the sink without another send, and the socket stays usable.
func testEngineReportsErrors(t *testing.T, engine Engine) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows reports another error")
	}
	relaytest.NoLeaks(t)
	sink := new(collector)
	socket := openSocket(t, engine, deadAddr, sink)
	defer socket.Close()
	for n := 1; n <= 3; n++ {
		relaytest.Check(t, send(socket, []byte("a")))
		relaytest.Eventually(t, "the error", func() bool { _, errs := sink.count(); return errs == n })
		_, errs := sink.received()
		if err := errs[n-1]; !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "read") {
			t.Fatal(err)
		}
	}
}

func TestEngineOpenFails(t *testing.T) { overEngines(t, testEngineOpenFails) }

func testEngineOpenFails(t *testing.T, engine Engine) {
	relaytest.NoLeaks(t)
	for _, addr := range []string{"[fe80::1%nosuchif]:53", "[fe80::1%4000000000]:53"} {
		if socket, err := engine.Open(netip.MustParseAddrPort(addr), new(collector)); err == nil {
			socket.Close()
			t.Errorf("%s opened", addr)
		} else if op := (*net.OpError)(nil); !errors.As(err, &op) || op.Addr == nil {
			t.Errorf("%v does not name the address", err)
		}
	}
	// A backend may have a broadcast address. On Linux, loopback has one too, which needs
	// no network.
	broadcast := "255.255.255.255:9"
	if runtime.GOOS == "linux" {
		broadcast = "127.255.255.255:9"
	}
	openSocket(t, engine, broadcast, new(collector)).Close()
}

// portSink checks that each datagram contains the port of the socket that received it.
type portSink struct {
	port  atomic.Uint32
	count chan struct{}
	wrong chan string
}

// Datagrams implements [Sink].
func (s *portSink) Datagrams(datagrams [][]byte) {
	for _, d := range datagrams {
		if got := uint32(binary.BigEndian.Uint16(d)); got != s.port.Load() {
			select {
			case s.wrong <- fmt.Sprintf("port %d got a datagram for %d", s.port.Load(), got):
			default:
			}
		}
	}
	select {
	case s.count <- struct{}{}:
	default:
	}
}

// Failed implements [Sink].
func (*portSink) Failed(error) {}

func TestEngineDatagramsOfOtherSockets(t *testing.T) {
	overEngines(t, testEngineDatagramsOfOtherSockets)
}

// Sockets are opened and closed while datagrams arrive, so that descriptor
// numbers are reused all the time. No socket receives what was sent to another.
func testEngineDatagramsOfOtherSockets(t *testing.T, engine Engine) {
	relaytest.NoLeaks(t)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	relaytest.Check(t, err)
	var streams sync.WaitGroup
	streams.Go(func() { // many answers to each query, each with the port that it is sent to
		var buf [16]byte
		for {
			_, from, err := conn.ReadFromUDPAddrPort(buf[:])
			if err != nil {
				return
			}
			for range 24 {
				_, _ = conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint16(nil, from.Port()), from)
			}
		}
	})
	defer streams.Wait()
	defer conn.Close()
	to := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	wrong := make(chan string, 1)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range 300 {
				sink := &portSink{count: make(chan struct{}, 1), wrong: wrong}
				socket, err := engine.Open(to, sink)
				if err != nil {
					t.Error(err)
					return
				}
				sink.port.Store(uint32(localPort(t, socket)))
				_ = send(socket, []byte("?"))
				if i%2 == 0 { // else the socket is closed before the answers arrive
					relaytest.Receive(t, "a datagram", sink.count)
				}
				socket.Close()
			}
		})
	}
	workers.Wait()
	select {
	case what := <-wrong:
		t.Error(what)
	default:
	}
}

func TestEngineOneSlowSink(t *testing.T) { overEngines(t, testEngineOneSlowSink) }

// A sink that blocks may delay other sockets, but causes no loss there.
func testEngineOneSlowSink(t *testing.T, engine Engine) {
	relaytest.NoLeaks(t)
	backend := relaytest.NewUDPBackend(t, relaytest.Echo)
	slow := newStuckSink()
	stuck := openSocket(t, engine, backend.Addr, slow)
	relaytest.Check(t, send(stuck, []byte("a")))
	relaytest.Receive(t, "the datagram", slow.entered)
	sinks := make([]collector, 8)
	list := make([]Socket, len(sinks))
	var want []string
	for n := range 10 {
		want = append(want, fmt.Sprint(n))
		for i := range list {
			if n == 0 {
				list[i] = openSocket(t, engine, backend.Addr, &sinks[i])
			}
			relaytest.Check(t, send(list[i], []byte(fmt.Sprint(n))))
			relaytest.Receive(t, "the datagram at the backend", backend.Received)
		}
	}
	close(slow.release)
	for i := range sinks {
		relaytest.Eventually(t, "all datagrams", func() bool { got, _ := sinks[i].count(); return got == len(want) })
		var got []string
		datagrams, _ := sinks[i].received()
		for _, d := range datagrams {
			got = append(got, string(d))
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		list[i].Close()
	}
	stuck.Close()
}

// failureSink counts errors.
type failureSink struct{ count atomic.Int64 }

// Datagrams implements [Sink].
func (*failureSink) Datagrams([][]byte) {}

// Failed implements [Sink].
func (s *failureSink) Failed(error) { s.count.Add(1) }

func TestEngineStopsBrokenSockets(t *testing.T) { overEngines(t, testEngineStopsBrokenSockets) }

// A socket that reports maxFailures errors in a row is treated as closed.
func testEngineStopsBrokenSockets(t *testing.T, engine Engine) {
	relaytest.NoLeaks(t)
	sink := new(failureSink)
	socket := openSocket(t, engine, deadAddr, sink)
	// Each send to a dead port causes an error, for the receiver or for the next send.
	relaytest.Eventually(t, "the end of the socket", func() bool {
		for range 100 {
			if errors.Is(send(socket, []byte("a")), net.ErrClosed) {
				return true
			}
		}
		return false
	})
	socket.Close() // as its session does
	// A send may return an error instead of the sink, and errors are read in groups.
	if got := sink.count.Load(); got > maxFailures*11/10 || got < maxFailures*9/10 {
		t.Fatalf("%d failures, want about %d", got, maxFailures)
	}
}
