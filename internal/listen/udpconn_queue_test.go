package listen

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// fakeSocket returns a udpSocket without a kernel socket, and its listener. Tests
// call deliver in place of the reading goroutine.
func fakeSocket() (*udpSocket, *UDPListener) {
	s := NewSockets()
	at := netip.MustParseAddrPort("127.0.0.1:1")
	u := &udpSocket{sockets: s, at: at, closed: make(chan struct{}), clients: make(map[key]*Conn), users: 1}
	l := &UDPListener{socket: u, opts: quiet(), conns: make(chan *Conn, backlog), done: make(chan struct{})}
	if err := u.listeners.add(l, at.String()); err != nil {
		panic(err)
	}
	s.udp[at] = u
	return u, l
}

// fakeKey returns the key of the i-th invented client.
func fakeKey(i int) key {
	addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	return key{client: netip.AddrPortFrom(addr, 1000)}
}

// fakeConn returns a client that has sent these datagrams.
func fakeConn(datagrams ...string) *Conn {
	u, l := fakeSocket()
	for _, datagram := range datagrams {
		u.deliver(fakeKey(1), []byte(datagram))
	}
	return <-l.conns
}

// Bytes that matchers have read are delivered again, in the original datagrams.
// Bytes that were consumed are not.
func TestTakeUnread(t *testing.T) {
	relaytest.NoLeaks(t)
	const chunk = 2048 // the size of caddy-l4's prefetch reads
	long := func(size int) string { return string(payload(size)) }
	for _, c := range []struct {
		name   string
		sent   []string
		reads  int
		unread int // -1: all bytes that were read
		want   []string
	}{
		{"nothing read", []string{"a", "b"}, 0, 0, []string{"a", "b"}},
		{"one matched", []string{"a", "b"}, 1, -1, []string{"a", "b"}},
		{"all matched", []string{"aa", "b", "cc"}, 3, -1, []string{"aa", "b", "cc"}},
		{"all consumed", []string{"aa", "b", "cc"}, 3, 0, nil},
		{"the last matched", []string{"aa", "b", "cc"}, 3, 2, []string{"cc"}},
		{"part of one matched", []string{"aa", "bcd", "e"}, 2, 2, []string{"cd", "e"}},
		{"the beginning of a long one matched", []string{long(5000), "b"}, 1, -1, []string{long(5000), "b"}},
		{"all of a long one matched", []string{long(5000), "b"}, 3, -1, []string{long(5000), "b"}},
		{"the beginning of a long one consumed", []string{long(5000), "b"}, 1, 0, []string{long(5000)[chunk:], "b"}},
		{"the longest, as far as matchers read", []string{long(65507), "b"}, 9, -1, []string{long(65507), "b"}},
		{"an exact chunk", []string{long(2048), "b"}, 1, -1, []string{long(2048), "b"}},
		{"one more than a chunk", []string{"a", long(2049), "b"}, 2, -1, []string{"a", long(2049), "b"}},
		{"empty ones matched", []string{"", "a", "", "b", ""}, 5, -1, []string{"", "a", "", "b", ""}},
		{"empty ones consumed", []string{"", "a", "", "b", "c"}, 4, 0, []string{"c"}},
		{"an empty one alone, matched or consumed", []string{""}, 1, 0, []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := fakeConn(c.sent...)
			u := conn.socket
			buf := make([]byte, chunk)
			var read int
			for range c.reads {
				n, err := conn.Read(buf)
				relaytest.Check(t, err)
				read += n
			}
			if c.unread >= 0 {
				read = c.unread
			}
			var got []string
			conn.Take(read, each(func(datagram []byte) { got = append(got, string(datagram)) }))
			if !slices.Equal(got, c.want) {
				t.Errorf("got %d datagrams %.40q, want %d %.40q", len(got), got, len(c.want), c.want)
			}
			got = nil
			u.deliver(fakeKey(1), []byte("later"))
			if !slices.Equal(got, []string{"later"}) {
				t.Errorf("got %q after Take", got)
			}
			if n := u.queuedBytes.Load(); n != 0 {
				t.Errorf("%d bytes counted as unread", n)
			}
			wantCounts(t, u, 2, 1, 0)
			conn.End()
			wantCounts(t, u, 1, 0, 0)
		})
	}
}

// As much as matchers may read is kept for Take, however small the datagrams are. If
// a handler reads on, no more than that is kept.
func TestTakeHistory(t *testing.T) {
	relaytest.NoLeaks(t)
	const most = 16<<10 + 2048 // layer4.MaxBufLen
	for _, size := range []int{1, 7, 1000, 2048, 9000} {
		conn := fakeConn("")
		var sent, read int
		buf := make([]byte, 2048)
		for ; read < 10*most; sent++ {
			conn.deliver([]byte(strings.Repeat("x", size)))
			for len(conn.queue) > conn.next {
				n, err := conn.Read(buf)
				relaytest.Check(t, err)
				read += n
			}
		}
		if conn.kept < most || conn.kept > maxHistory+size || len(conn.queue) > maxHistory+1 {
			t.Errorf("%d datagrams of %d bytes: %d bytes of %d datagrams kept", sent, size, conn.kept, len(conn.queue))
		}
		var taken int
		conn.Take(most, each(func(datagram []byte) { taken += len(datagram) }))
		if taken != most {
			t.Errorf("%d bytes of datagrams of %d bytes taken, want %d", taken, size, most)
		}
	}
	conn := fakeConn("")
	for range 10 * maxHistory {
		conn.deliver(nil)
		_, err := conn.Read(nil)
		relaytest.Check(t, err)
	}
	if len(conn.queue) > maxHistory+queueLength {
		t.Errorf("%d empty datagrams kept", len(conn.queue))
	}
}

// Datagrams that arrive while Take delivers the queued ones are delivered after
// them, one call at a time.
func TestTakeDuringDeliver(t *testing.T) {
	relaytest.NoLeaks(t)
	const count = 2000
	for range 20 {
		conn := fakeConn("0", "1", "2")
		_, err := conn.Read(make([]byte, 10))
		relaytest.Check(t, err)
		next, inside := 0, atomic.Int32{}
		done := make(chan struct{})
		begin := make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			<-begin
			for i := 3; i < count; i++ {
				for conn.socket.queuedBytes.Load() > queueLength { // do not overflow the queue
				}
				conn.deliver([]byte(fmt.Sprint(i)))
			}
		})
		conn.Take(1, each(func(datagram []byte) {
			if inside.Add(1) != 1 {
				t.Error("two calls at a time")
			}
			if next == 1 {
				close(begin)
			}
			if string(datagram) != fmt.Sprint(next) {
				t.Errorf("got %s, want %d", datagram, next)
			}
			if next++; next == count {
				close(done)
			}
			inside.Add(-1)
		}))
		relaytest.Receive(t, "the last datagram", done)
		reader.Wait()
	}
}

// The sink may end the client during Take.
func TestEndDuringTake(t *testing.T) {
	relaytest.NoLeaks(t)
	conn := fakeConn("a", "b", "c")
	u := conn.socket
	var got []string
	conn.Take(0, each(func(datagram []byte) {
		got = append(got, string(datagram))
		if len(got) == 2 {
			conn.End()
			u.deliver(fakeKey(1), []byte("next"))
		}
	}))
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
	wantCounts(t, u, 2, 1, 1) // the new client
	l, _ := u.listener()
	again := <-l.conns
	again.End() // before Take
	wantCounts(t, u, 1, 0, 0)
	again.Take(0, each(func([]byte) { t.Error("a datagram of an ended client was delivered") }))
	wantCounts(t, u, 1, 0, 0)
	if n := u.queuedBytes.Load(); n != 0 {
		t.Errorf("%d bytes counted as unread", n)
	}
}

// After Take, only End ends the client; Close does not.
func TestCloseAfterTake(t *testing.T) {
	relaytest.NoLeaks(t)
	conn := fakeConn("a")
	u := conn.socket
	conn.Take(0, each(func([]byte) { relaytest.Check(t, conn.Close()) }))
	relaytest.Check(t, conn.Close())
	conn.expire()
	wantCounts(t, u, 2, 1, 0)
	conn.Take(0, each(func([]byte) { t.Error("taken twice") }))
	wantCounts(t, u, 2, 1, 0)
	if _, err := conn.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	conn.End()
	conn.End()
	relaytest.Check(t, conn.Close())
	wantCounts(t, u, 1, 0, 0)
}

// The counts are right in whatever order Take, End and Close run.
func TestTakeRaces(t *testing.T) {
	relaytest.NoLeaks(t)
	u, l := fakeSocket()
	for i := range 2000 {
		u.deliver(fakeKey(i), []byte("a"))
		conn := <-l.conns
		var all sync.WaitGroup
		all.Go(func() { conn.Take(0, each(func([]byte) {})) })
		all.Go(func() { relaytest.Check(t, conn.Close()) })
		all.Go(func() { _, _ = conn.Read(make([]byte, 10)) })
		if i%2 == 0 {
			all.Go(conn.End)
		}
		u.deliver(fakeKey(i), []byte("b"))
		all.Wait()
		conn.End()
		for {
			select {
			case again := <-l.conns:
				again.End()
				continue
			default:
			}
			break
		}
	}
	wantCounts(t, u, 1, 0, 0)
	if n := u.queuedBytes.Load(); n != 0 {
		t.Errorf("%d bytes counted as unread", n)
	}
}
