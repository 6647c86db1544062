package listen

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// patience is how long a test waits for what must come; only a failure takes
// that long.
const patience = 20 * time.Second

// nextPort hands out ports below the system's ephemeral ones, so that no
// outgoing connection of another test takes one in between.
var nextPort atomic.Int32

func freePort(t testing.TB) uint16 {
	t.Helper()
	for range 2000 {
		port := 10000 + (os.Getpid()%50)*200 + int(nextPort.Add(1))%200
		tcp, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		if err != nil {
			continue
		}
		tcp.Close()
		udp, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
		if err != nil {
			continue
		}
		udp.Close()
		return uint16(port)
	}
	t.Fatal("no free port")
	return 0
}

func freeAddr(t testing.TB, host string) netip.AddrPort {
	t.Helper()
	return address(t, host, freePort(t))
}

func address(t testing.TB, host string, port uint16) netip.AddrPort {
	t.Helper()
	at, err := Address(host, port)
	check(t, err)
	return at
}

// to is at with another host, as a client dials it.
func to(host string, at netip.AddrPort) string {
	return netip.AddrPortFrom(netip.MustParseAddr(host), at.Port()).String()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// receive is the next of a channel.
func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case one := <-from:
		return one
	case <-time.After(patience):
		t.Fatal("waited in vain for ", what)
		panic("unreachable")
	}
}

// observed is a logger and what was logged.
func observed() (Options, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return Options{Log: zap.New(core)}, logs
}

func quiet() Options { return Options{Log: zap.NewNop()} }

func openTCP(t testing.TB, s *Sockets, at netip.AddrPort) *TCPListener {
	t.Helper()
	l, err := s.TCP(at, quiet())
	check(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func openUDP(t testing.TB, s *Sockets, at netip.AddrPort) *UDPListener {
	t.Helper()
	l, err := s.UDP(at, quiet())
	check(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// accepted is the next client of a listener.
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
	r := receive(t, "a client", results)
	check(t, r.err)
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
	conn, err := net.DialTimeout(network, at, patience)
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

func send(t testing.TB, conn net.Conn, datagram string) {
	t.Helper()
	_, err := conn.Write([]byte(datagram))
	check(t, err)
}

// wantRead reads once.
func wantRead(t testing.TB, conn net.Conn, want string) {
	t.Helper()
	check(t, conn.SetReadDeadline(time.Now().Add(patience)))
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

func wantGone(t testing.TB, s *Sockets) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tcp)+len(s.udp) != 0 {
		t.Errorf("left open: %d TCP, %d UDP sockets", len(s.tcp), len(s.udp))
	}
}

// noLeaks fails the test if goroutines that it started outlive it.
func noLeaks(t testing.TB) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		if t.Failed() {
			return // a test cut short leaves things behind
		}
		var left []string
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			left = left[:0]
			for id, stack := range goroutines() {
				if _, old := before[id]; !old {
					left = append(left, stack)
				}
			}
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d goroutines left:\n%s", len(left), strings.Join(left, "\n\n"))
				return
			}
		}
	})
}

// goroutines are the stacks of all goroutines by their ids.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := make(map[string]string)
	for _, stack := range bytes.Split(buf, []byte("\n\n")) {
		id, _, _ := strings.Cut(string(stack), " [")
		stacks[id] = string(stack)
	}
	return stacks
}

// each is a sink that is told of datagrams one by one.
func each(sink func([]byte)) func([][]byte) {
	return func(datagrams [][]byte) {
		for _, datagram := range datagrams {
			sink(datagram)
		}
	}
}
