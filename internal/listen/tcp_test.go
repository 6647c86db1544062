package listen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
)

// New clients go to the latest listener that is not closed.
func TestTCPLatest(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	first, second := openTCP(t, s, at), openTCP(t, s, at)
	meet := func(l net.Listener) {
		t.Helper()
		near := dial(t, "tcp", at.String())
		far := accepted[net.Conn](t, l)
		send(t, near, "hello")
		wantRead(t, far, "hello")
	}
	meet(second)
	third := openTCP(t, s, at)
	meet(third)
	check(t, third.Close())
	meet(second)
	check(t, first.Close()) // one that is not the latest
	meet(second)
	check(t, second.Close())
	check(t, second.Close())
	for _, l := range []net.Listener{first, second, third} {
		_, err := l.Accept()
		wantClosed(t, err)
		if l.Addr().String() != at.String() {
			t.Errorf("the address is %v", l.Addr())
		}
	}
	wantGone(t, s)
}

// A client that a listener has not accepted when it closes goes to the one
// before.
func TestTCPCloseHandsOn(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	first, second := openTCP(t, s, at), openTCP(t, s, at)
	near := dial(t, "tcp", at.String())
	send(t, near, "hello")
	eventually(t, "the client to be offered", func() bool {
		for _, stack := range goroutines() {
			if strings.Contains(stack, "[select") && strings.Contains(stack, "tcpSocket).hand") {
				return true
			}
		}
		return false
	})
	check(t, second.Close())
	wantRead(t, accepted[net.Conn](t, first), "hello")
}

// The last Close closes the socket, at once and for good.
func TestTCPLastClose(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	for range 50 {
		first, second := openTCP(t, s, at), openTCP(t, s, at)
		check(t, first.Close())
		check(t, second.Close())
		if conn, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("got %v, %v, want a refusal", conn, err)
		}
		wantGone(t, s)
		other, err := net.Listen("tcp", at.String())
		check(t, err)
		check(t, other.Close())
	}
}

// Listeners come and go while clients connect all the time: each is served.
func TestTCPNobodyRefused(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	var servers sync.WaitGroup
	serve := func(l net.Listener) {
		servers.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				servers.Go(func() {
					_, _ = io.Copy(conn, conn)
					conn.Close()
				})
			}
		})
	}
	current := openTCP(t, s, at)
	serve(current)

	var (
		stop    atomic.Bool
		served  atomic.Int64
		workers sync.WaitGroup
	)
	for range 4 {
		workers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := echo(at, fmt.Sprint(i)); err != nil {
					t.Error(err)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := range 200 {
		if i%10 == 0 { // a config that is rejected before it accepts anybody
			openTCP(t, s, at).Close()
		}
		next := openTCP(t, s, at)
		serve(next)
		before := served.Load()
		eventually(t, "a client to be served", func() bool { return served.Load() > before || t.Failed() })
		check(t, current.Close())
		current = next
	}
	stop.Store(true)
	workers.Wait()
	check(t, current.Close())
	servers.Wait()
	t.Logf("%d clients served", served.Load())
}

// echo is one client.
func echo(at netip.AddrPort, text string) error {
	conn, err := net.DialTimeout("tcp", at.String(), patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return err
	}
	if string(buf) != text {
		return fmt.Errorf("sent %q, got %q", text, buf)
	}
	return nil
}

// One config lists an address twice: it is told, and the rest goes on.
func TestSameOwner(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	opts, other := quiet(), quiet()
	opts.Owner, other.Owner = new(int), new(int)
	openers := map[string]func(Options) (net.Listener, error){
		"tcp": func(o Options) (net.Listener, error) { return s.TCP(at, o) },
		"udp": func(o Options) (net.Listener, error) { return s.UDP(at, o) },
	}
	for network, open := range openers {
		first, err := open(opts)
		check(t, err)
		_, err = open(opts)
		if err == nil || !strings.Contains(err.Error(), at.String()) || !strings.Contains(err.Error(), "more than once") {
			t.Errorf("%s: got %v", network, err)
		}
		second, err := open(other)
		check(t, err)
		check(t, first.Close())
		again, err := open(opts)
		check(t, err)
		check(t, again.Close())
		check(t, second.Close())
	}
	wantGone(t, s)
}

// The log is the latest config's: the one of a rejected config may be closed.
func TestLatestLog(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	one, two := zap.NewNop(), zap.NewNop()
	first, err := s.TCP(at, Options{Log: one})
	check(t, err)
	second, err := s.TCP(at, Options{Log: two})
	check(t, err)
	shared := &first.socket.listeners
	if shared.log() != two {
		t.Error("not the latest one's")
	}
	check(t, second.Close())
	if shared.log() != one {
		t.Error("not that of the one before")
	}
	check(t, first.Close())
	if shared.log() != one {
		t.Error("not the last one's")
	}
}

func TestAddress(t *testing.T) {
	noLeaks(t)
	for host, want := range map[string]string{
		"":                 "[::]:80",
		"::":               "[::]:80",
		"0.0.0.0":          "0.0.0.0:80",
		"127.0.0.1":        "127.0.0.1:80",
		"::ffff:127.0.0.1": "127.0.0.1:80",
		"::1":              "[::1]:80",
		"localhost":        "127.0.0.1:80",
	} {
		if got := address(t, host, 80).String(); got != want {
			t.Errorf("%q is %s, want %s", host, got, want)
		}
		if _, err := Address(host, 0); err == nil || !strings.Contains(err.Error(), "a port from 1 to 65535 is needed") {
			t.Errorf("%q without a port: %v", host, err)
		}
	}
	if _, err := Address("no.such.host.invalid", 80); err == nil {
		t.Error("a name that nobody knows is taken")
	}
}
