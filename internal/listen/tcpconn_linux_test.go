package listen

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// newTCPConn returns a client of a listener and its other end.
func newTCPConn(t testing.TB) (c *TCPConn, peer *net.TCPConn) {
	t.Helper()
	relaytest.NoLeaks(t)
	t.Setenv("RELAY_DISABLE", "")
	at := freeAddr(t, "127.0.0.1")
	l := openTCP(t, NewSockets(), at)
	peer = dial(t, "tcp", at.String()).(*net.TCPConn)
	return accepted[*TCPConn](t, l), peer
}

// wantState checks the state.
func (c *TCPConn) wantState(t testing.TB, want connState) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != want {
		t.Fatalf("in state %d, want %d", c.state, want)
	}
}

// waitReadable waits until c has bytes or an end to read.
func (c *TCPConn) waitReadable(t testing.TB) {
	t.Helper()
	relaytest.Eventually(t, "something to read", func() bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: c.fd, Events: unix.POLLIN}}, 0)
		return n > 0
	})
}

// Bytes that have arrived are read from the bare descriptor. A Read that has to wait
// wraps it.
func TestTCPConnRead(t *testing.T) {
	c, peer := newTCPConn(t)
	send(t, peer, "hello")
	c.waitReadable(t)
	buf := make([]byte, 3)
	if n, err := c.Read(buf); n != 3 || err != nil || string(buf) != "hel" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	c.wantState(t, connBare)
	read := make(chan string)
	go func() { // returns after "again" was sent
		rest := make([]byte, 7)
		_, err := io.ReadFull(c, rest)
		relaytest.Check(t, err)
		read <- string(rest)
	}()
	relaytest.Eventually(t, "the Read to wrap the descriptor", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.state == connWrapped
	})
	send(t, peer, "again")
	if got := relaytest.Receive(t, "the rest", read); got != "loagain" {
		t.Errorf("read %q", got)
	}
	send(t, c, "answer")
	wantRead(t, peer, "answer")
}

// Read reports a FIN as io.EOF and a reset as ECONNRESET.
func TestTCPConnReadEnd(t *testing.T) {
	c, peer := newTCPConn(t)
	relaytest.Check(t, peer.CloseWrite())
	c.waitReadable(t)
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read after FIN: %d, %v", n, err)
	}
	relaytest.Check(t, c.CloseWrite())
	if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the peer's read after CloseWrite: %d, %v", n, err)
	}

	c, peer = newTCPConn(t)
	relaytest.Check(t, peer.SetLinger(0))
	relaytest.Check(t, peer.Close())
	c.waitReadable(t)
	_, err := c.Read(make([]byte, 1))
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) {
		t.Errorf("read after a reset: %v", err)
	}
}

// readUntilDeadline waits in a Read until its deadline expires, and checks the
// error. A slow machine may not come to wait before that, so it tries again.
func (c *TCPConn) readUntilDeadline(t *testing.T, check func(error)) {
	t.Helper()
	relaytest.Eventually(t, "a Read that waits", func() bool {
		relaytest.Check(t, c.SetDeadline(time.Now().Add(10*time.Millisecond)))
		_, err := c.Read(make([]byte, 1))
		check(err)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.state == connWrapped
	})
}

// Deadlines hold in both states, also those set before the descriptor was wrapped.
// A deadline that was cleared has no effect.
func TestTCPConnDeadlines(t *testing.T) {
	expired := func(err error) {
		t.Helper()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("error of an expired deadline: %v", err)
		}
	}
	c, peer := newTCPConn(t)
	buf := make([]byte, 8)
	send(t, peer, "hello")
	c.waitReadable(t)
	relaytest.Check(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
	_, err := c.Read(buf)
	expired(err)
	c.wantState(t, connBare)
	relaytest.Check(t, c.SetDeadline(time.Time{}))
	wantRead(t, c, "hello") // sets a deadline that does not expire
	c.wantState(t, connBare)

	c.readUntilDeadline(t, expired)
	_, err = c.Write(buf)
	expired(err)
	relaytest.Check(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = c.Read(buf)
	expired(err)
	relaytest.Check(t, c.SetDeadline(time.Time{}))
	send(t, peer, "more")
	wantRead(t, c, "more")
}

// Detach returns the client's only descriptor in each state. After that, all methods
// fail as on a closed connection, and Close does nothing.
func TestTCPConnDetach(t *testing.T) {
	for name, before := range map[string]func(*testing.T, *TCPConn, net.Conn){
		"connBare": func(*testing.T, *TCPConn, net.Conn) {},
		"after a read": func(t *testing.T, c *TCPConn, peer net.Conn) {
			send(t, peer, "hello")
			wantRead(t, c, "hello")
		},
		"after a wait": func(t *testing.T, c *TCPConn, peer net.Conn) {
			c.readUntilDeadline(t, func(error) {})
		},
		"after Net": func(t *testing.T, c *TCPConn, peer net.Conn) {
			one, err := c.Net()
			relaytest.Check(t, err)
			if other, err := c.Net(); other != one || err != nil {
				t.Errorf("Net returned another connection, or %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := newTCPConn(t)
			before(t, c, peer)
			fd, err := c.Detach()
			relaytest.Check(t, err)
			relaytest.Check(t, c.Close())
			relaytest.Check(t, c.Close())
			_, err = c.Detach()
			wantClosed(t, err)
			_, err = c.Net()
			wantClosed(t, err)
			_, err = c.Read(make([]byte, 1))
			wantClosed(t, err)
			_, err = c.Write([]byte("x"))
			wantClosed(t, err)
			if c.RemoteAddr().String() != peer.LocalAddr().String() || c.LocalAddr().String() != peer.RemoteAddr().String() {
				t.Errorf("addresses %v and %v", c.LocalAddr(), c.RemoteAddr())
			}
			if _, err := unix.Read(fd, make([]byte, 1)); err != unix.EAGAIN {
				t.Errorf("read without data: %v", err)
			}
			_, err = unix.Write(fd, []byte("still here"))
			relaytest.Check(t, err)
			wantRead(t, peer, "still here")
			relaytest.Check(t, unix.Close(fd))
			if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("another descriptor was left open: %d, %v", n, err)
			}
		})
	}
}

// ReadFrom, WriteTo, SetLinger and Close act like those of package net.
func TestTCPConnCopiesAndResets(t *testing.T) {
	c, peer := newTCPConn(t)
	text := strings.Repeat("copy ", 10)
	n, err := c.ReadFrom(strings.NewReader(text))
	if n != int64(len(text)) || err != nil {
		t.Errorf("copied %d, %v", n, err)
	}
	wantRead(t, peer, text)
	send(t, peer, text)
	relaytest.Check(t, peer.CloseWrite())
	var got strings.Builder
	if _, err := c.WriteTo(&got); err != nil || got.String() != text {
		t.Errorf("copied %q, %v", got.String(), err)
	}
	relaytest.Check(t, c.SetLinger(0))
	relaytest.Check(t, c.Close())
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after a reset: %v", err)
	}
}

// Close and Detach during a Read end that Read, and the descriptor is closed exactly
// once.
func TestTCPConnCloseDuringRead(t *testing.T) {
	relaytest.NoLeaks(t)
	t.Setenv("RELAY_DISABLE", "")
	at := freeAddr(t, "127.0.0.1")
	l := openTCP(t, NewSockets(), at)
	for i := range 100 {
		peer := dial(t, "tcp", at.String())
		c := accepted[*TCPConn](t, l)
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("read something")
			}
		})
		both.Go(func() {
			if i%2 == 0 {
				c.Close()
			} else if fd, err := c.Detach(); err == nil {
				unix.Close(fd)
			}
		})
		both.Wait()
		if _, err := peer.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the peer read: %v", err)
		}
		peer.Close()
	}
}

// Close and Detach leave no descriptors open in any state.
func TestTCPConnDescriptorLeaks(t *testing.T) {
	relaytest.NoLeaks(t)
	t.Setenv("RELAY_DISABLE", "")
	at := freeAddr(t, "127.0.0.1")
	l := openTCP(t, NewSockets(), at)
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		relaytest.Check(t, err)
		return len(list)
	}
	var before int
	for i := range 40 {
		peer := dial(t, "tcp", at.String())
		c := accepted[*TCPConn](t, l)
		if i%2 == 1 {
			_, err := c.Net()
			relaytest.Check(t, err)
		}
		if i%4 < 2 {
			relaytest.Check(t, c.Close())
		} else {
			fd, err := c.Detach()
			relaytest.Check(t, err)
			relaytest.Check(t, unix.Close(fd))
		}
		relaytest.Check(t, peer.Close())
		if i == 0 {
			before = open()
		}
	}
	relaytest.Eventually(t, "all descriptors to be closed", func() bool { return open() <= before })
}
