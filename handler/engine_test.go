package handler

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
)

// This file asks of both engines what the interface promises.

// collector is a sink that keeps what it is told.
type collector struct {
	mu        sync.Mutex
	datagrams [][]byte
	errs      []error
}

// Datagrams implements [Sink].
func (c *collector) Datagrams(datagrams [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, datagram := range datagrams {
		c.datagrams = append(c.datagrams, bytes.Clone(datagram))
	}
}

// Failed implements [Sink].
func (c *collector) Failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
}

// told is what it was told so far.
func (c *collector) told() ([][]byte, []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.datagrams, c.errs
}

func (c *collector) count() (datagrams, errs int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.datagrams), len(c.errs)
}

// send sends datagrams in one call.
func send(socket Socket, datagrams ...[]byte) error {
	_, err := socket.Send(datagrams)
	return err
}

func openSocket(t testing.TB, engine Engine, addr string, sink Sink) Socket {
	t.Helper()
	socket, err := engine.Open(netip.MustParseAddrPort(addr), sink)
	check(t, err)
	return socket
}

func TestEngineManySockets(t *testing.T) { overEngines(t, testEngineManySockets) }

// Each of many sockets gets what is its own, in order.
func testEngineManySockets(t *testing.T, engine Engine) {
	noLeaks(t)
	backend := newUDPBackend(t, echoDatagram)
	const sockets, each = 300, 20
	sinks := make([]collector, sockets)
	list := make([]Socket, sockets)
	for i := range list {
		list[i] = openSocket(t, engine, backend.addr, &sinks[i])
	}
	for n := range each {
		for i, socket := range list {
			check(t, send(socket, []byte(fmt.Sprint(i, n))))
			if i%50 == 49 { // the backend's queue is short
				eventually(t, "the echo", func() bool { got, _ := sinks[i].count(); return got > n })
			}
		}
	}
	for i := range sinks {
		eventually(t, "all echoes", func() bool { got, _ := sinks[i].count(); return got == each })
		got, _ := sinks[i].told()
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
			noLeaks(t)
			at := netip.MustParseAddrPort(addr)
			conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr().Unmap(), 0)))
			if err != nil && at.Addr() == netip.IPv6Loopback() {
				t.Skip(err)
			}
			check(t, err)
			defer conn.Close()
			to := netip.AddrPortFrom(at.Addr(), conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
			sink := new(collector)
			socket, err := engine.Open(to, sink)
			check(t, err)
			defer socket.Close()
			buf := make([]byte, 1<<16)
			for i, size := range []int{0, 1, 2, 512, 1472, 2048, 2049, 8999, 9000, 9001, 16000, 32768, 65507} {
				datagram := bytes.Repeat([]byte{byte(i + 1)}, size)
				check(t, send(socket, datagram))
				n, from, err := conn.ReadFromUDPAddrPort(buf)
				check(t, err)
				if !bytes.Equal(buf[:n], datagram) {
					t.Fatalf("of %d bytes %d arrived", size, n)
				}
				_, err = conn.WriteToUDPAddrPort(datagram, from)
				check(t, err)
				eventually(t, "the answer", func() bool { got, _ := sink.count(); return got > i })
				if got, _ := sink.told(); !bytes.Equal(got[i], datagram) {
					t.Fatalf("of %d bytes %d came back", size, len(got[i]))
				}
			}
			if err := send(socket, make([]byte, 65528)); !oneDatagrams(err) {
				t.Errorf("too big: %v", err)
			}
		})
	}
}

func TestEngineTellsOfErrors(t *testing.T) { overEngines(t, testEngineTellsOfErrors) }

// An ICMP message reaches the sink without another send, and the socket goes on.
func testEngineTellsOfErrors(t *testing.T, engine Engine) {
	if runtime.GOOS == "windows" {
		t.Skip("has another error")
	}
	noLeaks(t)
	sink := new(collector)
	socket := openSocket(t, engine, deadAddr, sink)
	defer socket.Close()
	for n := 1; n <= 3; n++ {
		check(t, send(socket, []byte("a")))
		eventually(t, "the error", func() bool { _, errs := sink.count(); return errs == n })
		_, errs := sink.told()
		if err := errs[n-1]; !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "read") {
			t.Fatal(err)
		}
	}
}

func TestEngineOpenFails(t *testing.T) { overEngines(t, testEngineOpenFails) }

func testEngineOpenFails(t *testing.T, engine Engine) {
	noLeaks(t)
	for _, addr := range []string{"[fe80::1%nosuchif]:53", "[fe80::1%4000000000]:53"} {
		if socket, err := engine.Open(netip.MustParseAddrPort(addr), new(collector)); err == nil {
			socket.Close()
			t.Errorf("%s opened", addr)
		} else if op := (*net.OpError)(nil); !errors.As(err, &op) || op.Addr == nil {
			t.Errorf("%v does not say where", err)
		}
	}
	// A broadcast address is a backend like any other.
	openSocket(t, engine, "255.255.255.255:9", new(collector)).Close()
}

// portSink checks that datagrams carry the port of the socket they come by.
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

func TestEngineStrangersDatagrams(t *testing.T) { overEngines(t, testEngineStrangersDatagrams) }

// Sockets are opened and closed while datagrams stream in, so that descriptors
// change hands all the time: none ever gets what was sent to another.
func testEngineStrangersDatagrams(t *testing.T, engine Engine) {
	noLeaks(t)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(t, err)
	var streams sync.WaitGroup
	streams.Go(func() { // to each question a stream of answers that say whose they are
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
				if i%2 == 0 { // else it is closed before the stream begins
					receiveFrom(t, "a datagram", sink.count)
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

// localPort is a socket's own; nobody has sent to it yet.
func localPort(t testing.TB, socket Socket) uint16 {
	if s, ok := socket.(*udpSocket); ok {
		return s.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	return loopPort(t, socket)
}

func TestEngineOneSlowSink(t *testing.T) { overEngines(t, testEngineOneSlowSink) }

// Whoever blocks may hold others up, but takes nothing from them.
func testEngineOneSlowSink(t *testing.T, engine Engine) {
	noLeaks(t)
	backend := newUDPBackend(t, echoDatagram)
	slow := newStuckSink()
	stuck := openSocket(t, engine, backend.addr, slow)
	check(t, send(stuck, []byte("a")))
	receiveFrom(t, "its datagram", slow.entered)
	sinks := make([]collector, 8)
	list := make([]Socket, len(sinks))
	var want []string
	for n := range 10 {
		want = append(want, fmt.Sprint(n))
		for i := range list {
			if n == 0 {
				list[i] = openSocket(t, engine, backend.addr, &sinks[i])
			}
			check(t, send(list[i], []byte(fmt.Sprint(n))))
			receiveFrom(t, "the datagram at the backend", backend.got)
		}
	}
	close(slow.release)
	for i := range sinks {
		eventually(t, "all datagrams", func() bool { got, _ := sinks[i].count(); return got == len(want) })
		var got []string
		datagrams, _ := sinks[i].told()
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

// stuckSink blocks with its datagrams until it is released.
type stuckSink struct {
	entered chan string // each datagram, when it comes
	release chan struct{}
}

func newStuckSink() *stuckSink {
	return &stuckSink{entered: make(chan string, 64), release: make(chan struct{})}
}

// Datagrams implements [Sink].
func (s *stuckSink) Datagrams(datagrams [][]byte) {
	for _, d := range datagrams {
		s.entered <- string(d)
		<-s.release
	}
}

// Failed implements [Sink].
func (*stuckSink) Failed(error) {}
