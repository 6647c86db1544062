package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// ports are the ports of this process.
var ports = relaytest.ClaimPorts()

// freePort returns a port that is free on all addresses, for TCP and UDP.
func freePort(t testing.TB) uint16 {
	t.Helper()
	return uint16(ports.Free(t))
}

func freeAddr(t testing.TB, host string) netip.AddrPort {
	t.Helper()
	return address(t, host, freePort(t))
}

func address(t testing.TB, host string, port uint16) netip.AddrPort {
	t.Helper()
	at, err := Address(host, port)
	relaytest.Check(t, err)
	return at
}

// to returns the address with the port of at and another host.
func to(host string, at netip.AddrPort) string {
	return netip.AddrPortFrom(netip.MustParseAddr(host), at.Port()).String()
}

// observed returns Options with a logger, and the lines logged with it.
func observed() (Options, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return Options{Log: zap.New(core)}, logs
}

// quiet returns Options with a logger that discards everything.
func quiet() Options { return Options{Log: zap.NewNop()} }

func openTCP(t testing.TB, s *Sockets, at netip.AddrPort) *TCPListener {
	t.Helper()
	l, err := s.TCP(at, quiet())
	relaytest.Check(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func openUDP(t testing.TB, s *Sockets, at netip.AddrPort) *UDPListener {
	t.Helper()
	l, err := s.UDP(at, quiet())
	relaytest.Check(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// accepted returns the next client of a listener. The client ends with the test.
func accepted[C net.Conn](t testing.TB, l net.Listener) C {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		results <- result{conn, err}
	}()
	r := relaytest.Receive(t, "a client", results)
	relaytest.Check(t, r.err)
	t.Cleanup(func() {
		if c, ok := r.conn.(*Conn); ok {
			c.End()
			return
		}
		r.conn.Close()
	})
	return r.conn.(C)
}

func dial(t testing.TB, network, at string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout(network, at, relaytest.Limit)
	relaytest.Check(t, err)
	t.Cleanup(func() { conn.Close() })
	relaytest.Check(t, conn.SetDeadline(time.Now().Add(relaytest.Limit)))
	return conn
}

func send(t testing.TB, conn net.Conn, datagram string) {
	t.Helper()
	_, err := conn.Write([]byte(datagram))
	relaytest.Check(t, err)
}

// wantRead reads once and compares.
func wantRead(t testing.TB, conn net.Conn, want string) {
	t.Helper()
	relaytest.Check(t, conn.SetReadDeadline(time.Now().Add(relaytest.Limit)))
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("%v, want %d bytes", err, len(want))
	}
	if got := string(buf[:n]); got != want {
		t.Fatalf("got %s, want %s", brief(got), brief(want))
	}
}

func brief(text string) string {
	if len(text) > 60 {
		return text[:60] + "..."
	}
	return text
}

func wantClosed(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, net.ErrClosed) {
		t.Fatalf("got %v, want %v", err, net.ErrClosed)
	}
}

// wantNoSockets checks that all sockets are closed.
func wantNoSockets(t testing.TB, s *Sockets) {
	t.Helper()
	s.binding.Lock()
	defer s.binding.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tcp)+len(s.udp) != 0 {
		t.Errorf("still open: %d TCP, %d UDP sockets", len(s.tcp), len(s.udp))
	}
}

// each returns a sink that passes datagrams on one by one.
func each(sink func([]byte)) Sink {
	return func(datagrams [][]byte) bool {
		for _, datagram := range datagrams {
			sink(datagram)
		}
		return true
	}
}

// overWatchers runs a test over sockets that have a goroutine each, and over watched
// ones.
func overWatchers(t *testing.T, test func(*testing.T, *Sockets)) {
	for _, watched := range []bool{false, true} {
		t.Run(fmt.Sprintf("watched=%t", watched), func(t *testing.T) {
			relaytest.NoLeaks(t)
			s := NewSockets()
			if watched && !s.watchAll() {
				t.Skip("this system has no event loops")
			}
			test(t, s)
		})
	}
}
