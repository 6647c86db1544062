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
)

// bare is a socket that the kernel knows nothing of, and its listener: tests
// call deliver in the place of its goroutine.
func bare() (*udpSocket, *UDPListener) {
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

// made is a made-up client.
func made(i int) key {
	addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	return key{client: netip.AddrPortFrom(addr, 1000)}
}

// bareConn is a client with these datagrams.
func bareConn(datagrams ...string) *Conn {
	u, l := bare()
	for _, datagram := range datagrams {
		u.deliver(made(1), []byte(datagram))
	}
	return <-l.conns
}

// What matchers have looked at is delivered as the datagrams that it was, what
// somebody has really read is not.
func TestTakeUnread(t *testing.T) {
	noLeaks(t)
	const chunk = 2048 // caddy-l4 prefetches by such reads
	long := func(size int) string { return string(payload(size)) }
	for _, c := range []struct {
		name   string
		sent   []string
		reads  int
		unread int // -1: all that was read
		want   []string
	}{
		{"nothing read", []string{"a", "b"}, 0, 0, []string{"a", "b"}},
		{"one looked at", []string{"a", "b"}, 1, -1, []string{"a", "b"}},
		{"all looked at", []string{"aa", "b", "cc"}, 3, -1, []string{"aa", "b", "cc"}},
		{"all really read", []string{"aa", "b", "cc"}, 3, 0, nil},
		{"the last looked at", []string{"aa", "b", "cc"}, 3, 2, []string{"cc"}},
		{"part of one looked at", []string{"aa", "bcd", "e"}, 2, 2, []string{"cd", "e"}},
		{"the beginning of a long one looked at", []string{long(5000), "b"}, 1, -1, []string{long(5000), "b"}},
		{"all of a long one looked at", []string{long(5000), "b"}, 3, -1, []string{long(5000), "b"}},
		{"the beginning of a long one really read", []string{long(5000), "b"}, 1, 0, []string{long(5000)[chunk:], "b"}},
		{"the longest, as far as matchers look", []string{long(65507), "b"}, 9, -1, []string{long(65507), "b"}},
		{"an exact chunk", []string{long(2048), "b"}, 1, -1, []string{long(2048), "b"}},
		{"one more than a chunk", []string{"a", long(2049), "b"}, 2, -1, []string{"a", long(2049), "b"}},
		{"empty ones looked at", []string{"", "a", "", "b", ""}, 5, -1, []string{"", "a", "", "b", ""}},
		{"empty ones really read", []string{"", "a", "", "b", "c"}, 4, 0, []string{"c"}},
		{"an empty one alone, looked at or read: who knows", []string{""}, 1, 0, []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := bareConn(c.sent...)
			u := conn.socket
			buf := make([]byte, chunk)
			var read int
			for range c.reads {
				n, err := conn.Read(buf)
				check(t, err)
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
			u.deliver(made(1), []byte("later"))
			if !slices.Equal(got, []string{"later"}) {
				t.Errorf("got %q later", got)
			}
			if n := u.waiting.Load(); n != 0 {
				t.Errorf("%d bytes are said to wait", n)
			}
			wantCounts(t, u, 2, 1, 0)
			conn.End()
			wantCounts(t, u, 1, 0, 0)
		})
	}
}

// As much as matchers may look at is kept, in however small datagrams; of a
// client that is read for long no more than that.
func TestTakeHistory(t *testing.T) {
	noLeaks(t)
	const most = 16<<10 + 2048 // layer4.MaxBufLen
	for _, size := range []int{1, 7, 1000, 2048, 9000} {
		conn := bareConn("")
		var sent, read int
		buf := make([]byte, 2048)
		for ; read < 10*most; sent++ {
			conn.deliver([]byte(strings.Repeat("x", size)))
			for len(conn.queue) > conn.next {
				n, err := conn.Read(buf)
				check(t, err)
				read += n
			}
		}
		if conn.kept < most || conn.kept > history+size || len(conn.queue) > history+1 {
			t.Errorf("%d datagrams of %d bytes: %d bytes of %d datagrams kept", sent, size, conn.kept, len(conn.queue))
		}
		var taken int
		conn.Take(most, each(func(datagram []byte) { taken += len(datagram) }))
		if taken != most {
			t.Errorf("%d bytes of datagrams of %d bytes taken, want %d", taken, size, most)
		}
	}
	conn := bareConn("")
	for range 10 * history {
		conn.deliver(nil)
		_, err := conn.Read(nil)
		check(t, err)
	}
	if len(conn.queue) > history+queueLength {
		t.Errorf("%d empty datagrams kept", len(conn.queue))
	}
}

// Datagrams that come while Take delivers those before come after them, one at
// a time.
func TestTakeWhileTheyCome(t *testing.T) {
	noLeaks(t)
	const count = 2000
	for range 20 {
		conn := bareConn("0", "1", "2")
		_, err := conn.Read(make([]byte, 10))
		check(t, err)
		next, inside := 0, atomic.Int32{}
		done := make(chan struct{})
		begin := make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			<-begin
			for i := 3; i < count; i++ {
				for conn.socket.waiting.Load() > queueLength { // its queue must not overflow
				}
				conn.deliver([]byte(fmt.Sprint(i)))
			}
		})
		conn.Take(1, each(func(datagram []byte) {
			if inside.Add(1) != 1 {
				t.Error("two at a time")
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
		receive(t, "the last", done)
		reader.Wait()
	}
}

// A relay may end a client while it is given it.
func TestTakeAndEnd(t *testing.T) {
	noLeaks(t)
	conn := bareConn("a", "b", "c")
	u := conn.socket
	var got []string
	conn.Take(0, each(func(datagram []byte) {
		got = append(got, string(datagram))
		if len(got) == 2 {
			conn.End()
			u.deliver(made(1), []byte("next"))
		}
	}))
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
	wantCounts(t, u, 2, 1, 1) // the next one
	l, _ := u.listener()
	again := <-l.conns
	again.End() // before Take
	wantCounts(t, u, 1, 0, 0)
	again.Take(0, each(func([]byte) { t.Error("one that has ended was delivered") }))
	wantCounts(t, u, 1, 0, 0)
	if n := u.waiting.Load(); n != 0 {
		t.Errorf("%d bytes are said to wait", n)
	}
}

// Close is for whoever accepted the client, End for whoever took it.
func TestTakeAndClose(t *testing.T) {
	noLeaks(t)
	conn := bareConn("a")
	u := conn.socket
	conn.Take(0, each(func([]byte) { check(t, conn.Close()) }))
	check(t, conn.Close())
	conn.expire()
	wantCounts(t, u, 2, 1, 0)
	conn.Take(0, each(func([]byte) { t.Error("taken twice") }))
	wantCounts(t, u, 2, 1, 0)
	if _, err := conn.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	conn.End()
	conn.End()
	check(t, conn.Close())
	wantCounts(t, u, 1, 0, 0)
}

// However Take, End and Close meet, the books are right.
func TestTakeRaces(t *testing.T) {
	noLeaks(t)
	u, l := bare()
	for i := range 2000 {
		u.deliver(made(i), []byte("a"))
		conn := <-l.conns
		var all sync.WaitGroup
		all.Go(func() { conn.Take(0, each(func([]byte) {})) })
		all.Go(func() { check(t, conn.Close()) })
		all.Go(func() { _, _ = conn.Read(make([]byte, 10)) })
		if i%2 == 0 {
			all.Go(conn.End)
		}
		u.deliver(made(i), []byte("b"))
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
	if n := u.waiting.Load(); n != 0 {
		t.Errorf("%d bytes are said to wait", n)
	}
}
