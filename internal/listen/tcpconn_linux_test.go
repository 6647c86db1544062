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
)

// light is a client as relay+tcp/ has it, and its other end.
func light(t testing.TB) (c *TCPConn, peer *net.TCPConn) {
	t.Helper()
	noLeaks(t)
	t.Setenv("RELAY_DISABLE", "")
	at := freeAddr(t, "127.0.0.1")
	l := openTCP(t, NewSockets(), at)
	peer = dial(t, "tcp", at.String()).(*net.TCPConn)
	return accepted[*TCPConn](t, l), peer
}

func (c *TCPConn) is(t testing.TB, want connState) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != want {
		t.Fatalf("in state %d, want %d", c.state, want)
	}
}

// readable waits until there is something to read, without reading.
func (c *TCPConn) readable(t testing.TB) {
	t.Helper()
	eventually(t, "something to read", func() bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
}

// What is there is read from the bare descriptor; who has to wait gets a
// connection beneath, and who writes.
func TestTCPConnWakesWhenItMust(t *testing.T) {
	c, peer := light(t)
	send(t, peer, "hello")
	c.readable(t)
	buf := make([]byte, 3)
	if n, err := c.Read(buf); n != 3 || err != nil || string(buf) != "hel" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	c.is(t, untouched)
	read := make(chan string)
	go func() { // ends with the word
		rest := make([]byte, 7)
		_, err := io.ReadFull(c, rest)
		check(t, err)
		read <- string(rest)
	}()
	eventually(t, "the wait", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.state == waitedFor
	})
	send(t, peer, "again")
	if got := receive(t, "the rest", read); got != "loagain" {
		t.Errorf("read %q", got)
	}
	send(t, c, "answer")
	wantRead(t, peer, "answer")
}

func TestTCPConnEnds(t *testing.T) {
	c, peer := light(t)
	check(t, peer.CloseWrite())
	c.readable(t)
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the end is %d, %v", n, err)
	}
	check(t, c.CloseWrite())
	if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the other end is %d, %v", n, err)
	}

	c, peer = light(t)
	check(t, peer.SetLinger(0))
	check(t, peer.Close())
	c.readable(t)
	_, err := c.Read(make([]byte, 1))
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) {
		t.Errorf("a reset is %v", err)
	}
}

// A deadline holds whether it is set before or after somebody waits, and one
// that was taken back does not.
func TestTCPConnDeadlines(t *testing.T) {
	expired := func(err error) {
		t.Helper()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("an expired deadline is %v", err)
		}
	}
	c, peer := light(t)
	buf := make([]byte, 8)
	send(t, peer, "hello")
	c.readable(t)
	check(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
	_, err := c.Read(buf)
	expired(err)
	c.is(t, untouched)
	check(t, c.SetDeadline(time.Time{}))
	wantRead(t, c, "hello") // sets another, of a while
	c.is(t, untouched)

	check(t, c.SetDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = c.Read(buf) // waits
	expired(err)
	c.is(t, waitedFor)
	_, err = c.Write(buf)
	expired(err)
	check(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = c.Read(buf)
	expired(err)
	check(t, c.SetDeadline(time.Time{}))
	send(t, peer, "more")
	wantRead(t, c, "more")
}

// A relay gets a descriptor of its own, in whatever state; everything after
// that is of a closed connection, and its Close does nothing.
func TestTCPConnDetach(t *testing.T) {
	for name, before := range map[string]func(*testing.T, *TCPConn, net.Conn){
		"untouched": func(*testing.T, *TCPConn, net.Conn) {},
		"after a read": func(t *testing.T, c *TCPConn, peer net.Conn) {
			send(t, peer, "hello")
			wantRead(t, c, "hello")
		},
		"after a wait": func(t *testing.T, c *TCPConn, peer net.Conn) {
			check(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
			_, _ = c.Read(make([]byte, 1))
			c.is(t, waitedFor)
		},
		"after Net": func(t *testing.T, c *TCPConn, peer net.Conn) {
			one, err := c.Net()
			check(t, err)
			if other, err := c.Net(); other != one || err != nil {
				t.Errorf("another connection, or %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := light(t)
			before(t, c, peer)
			fd, err := c.Detach()
			check(t, err)
			check(t, c.Close())
			check(t, c.Close())
			_, err = c.Detach()
			wantClosed(t, err)
			_, err = c.Net()
			wantClosed(t, err)
			_, err = c.Read(make([]byte, 1))
			wantClosed(t, err)
			_, err = c.Write([]byte("x"))
			wantClosed(t, err)
			if c.RemoteAddr().String() != peer.LocalAddr().String() || c.LocalAddr().String() != peer.RemoteAddr().String() {
				t.Errorf("between %v and %v", c.LocalAddr(), c.RemoteAddr())
			}
			if _, err := unix.Read(fd, make([]byte, 1)); err != unix.EAGAIN {
				t.Errorf("a read of what is not there: %v", err)
			}
			_, err = unix.Write(fd, []byte("still here"))
			check(t, err)
			wantRead(t, peer, "still here")
			check(t, unix.Close(fd))
			if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("the descriptor was not the last: %d, %v", n, err)
			}
		})
	}
}

// Copies and resets are those of package net.
func TestTCPConnCopiesAndResets(t *testing.T) {
	c, peer := light(t)
	text := strings.Repeat("copy ", 10)
	n, err := c.ReadFrom(strings.NewReader(text))
	if n != int64(len(text)) || err != nil {
		t.Errorf("copied %d, %v", n, err)
	}
	wantRead(t, peer, text)
	send(t, peer, text)
	check(t, peer.CloseWrite())
	var got strings.Builder
	if _, err := c.WriteTo(&got); err != nil || got.String() != text {
		t.Errorf("copied %q, %v", got.String(), err)
	}
	check(t, c.SetLinger(0))
	check(t, c.Close())
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reset is %v", err)
	}
}

// Close ends a Read that waits, and one that is about to, and never closes a
// descriptor that is another's by then; nor does one that is detached meanwhile.
func TestTCPConnCloseMeanwhile(t *testing.T) {
	noLeaks(t)
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
			t.Errorf("the peer is left with %v", err)
		}
		peer.Close()
	}
}

// Nothing of them is left in any state.
func TestTCPConnLeavesNothing(t *testing.T) {
	noLeaks(t)
	t.Setenv("RELAY_DISABLE", "")
	at := freeAddr(t, "127.0.0.1")
	l := openTCP(t, NewSockets(), at)
	files := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return len(list)
	}
	var before int
	for i := range 40 {
		peer := dial(t, "tcp", at.String())
		c := accepted[*TCPConn](t, l)
		if i%2 == 1 {
			_, err := c.Net()
			check(t, err)
		}
		if i%4 < 2 {
			check(t, c.Close())
		} else {
			fd, err := c.Detach()
			check(t, err)
			check(t, unix.Close(fd))
		}
		check(t, peer.Close())
		if i == 0 {
			before = files()
		}
	}
	eventually(t, "all descriptors", func() bool { return files() <= before })
}
