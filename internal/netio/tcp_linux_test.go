package netio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// tcpListener returns a listener on loopback and its address.
func tcpListener(t testing.TB) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	relaytest.Check(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener, listener.Addr().(*net.TCPAddr).AddrPort()
}

// silentListener returns a listening socket whose queue is full: connections to it
// stay under way until wake is called.
func silentListener(t testing.TB) (addr netip.AddrPort, wake func()) {
	t.Helper()
	listener, addr := tcpListener(t)
	relaytest.SetBacklog(t, listener, 0)
	for done := true; done; {
		fd, established, err := ConnectTCPNonblock(addr)
		relaytest.Check(t, err)
		SetQuickAck(fd)
		t.Cleanup(func() { CloseDescriptor(fd) })
		done = established
	}
	return addr, func() { relaytest.SetBacklog(t, listener, 128) }
}

// descriptorPair returns a descriptor for each of two connected sockets.
func descriptorPair(t testing.TB) (near, far int) {
	t.Helper()
	a, b := relaytest.TCPPair(t)
	near, err := Detach(a)
	relaytest.Check(t, err)
	far, err = Detach(b)
	relaytest.Check(t, err)
	t.Cleanup(func() { CloseDescriptor(near); CloseDescriptor(far) })
	return near, far
}

// awaitReadable waits until a descriptor has bytes, or its end.
func awaitReadable(t testing.TB, fd int) {
	t.Helper()
	relaytest.Eventually(t, "something to read", func() bool { return poll(fd, unix.POLLIN) })
}

func TestConnectTCPNonblock(t *testing.T) {
	listener, addr := tcpListener(t)
	fd, done, err := ConnectTCPNonblock(addr)
	if err != nil || !done {
		t.Fatalf("over loopback: done is %v, error %v", done, err)
	}
	defer CloseDescriptor(fd)
	SetQuickAck(fd)
	peer, err := listener.Accept()
	relaytest.Check(t, err)
	defer peer.Close()
	if own, err := LocalAddr(fd); err != nil || own.String() != peer.RemoteAddr().String() {
		t.Errorf("the local address is %v, %v, want %v", own, err, peer.RemoteAddr())
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags are %x, %v, want O_NONBLOCK", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags are %x, %v, want FD_CLOEXEC", flags, err)
	}

	silent, _ := silentListener(t)
	fd, done, err = ConnectTCPNonblock(silent)
	if err != nil || done {
		t.Fatalf("to a silent server: done is %v, error %v", done, err)
	}
	CloseDescriptor(fd)

	relaytest.Check(t, listener.Close())
	mapped := netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), addr.Port())
	for _, dead := range []netip.AddrPort{addr, mapped} {
		if fd, _, err := ConnectTCPNonblock(dead); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: descriptor %d, error %v", dead, fd, err)
		}
	}
	if _, _, err := ConnectTCPNonblock(netip.MustParseAddrPort("[fe80::1%no-such-interface]:80")); err == nil {
		t.Error("connected through an interface that does not exist")
	}
}

// The acknowledgement of the handshake is sent with the first bytes, or by SetQuickAck.
func TestConnectDelaysTheAcknowledgement(t *testing.T) {
	_, addr := tcpListener(t)
	for quickAck, want := range map[bool]uint32{false: 2, true: 3} {
		var connect, all uint32
		relaytest.QuickRound(t, func() {
			fd, done, err := ConnectTCPNonblock(addr)
			if err != nil || !done {
				t.Fatalf("over loopback: done is %v, error %v", done, err)
			}
			defer CloseDescriptor(fd)
			connect = relaytest.SegmentsSent(t, fd)
			if quickAck {
				SetQuickAck(fd)
			}
			if _, errno := WriteNonblock(fd, []byte("first")); errno != 0 {
				t.Fatal(errno)
			}
			SetQuickAck(fd) // does nothing: nothing is left to acknowledge
			all = relaytest.SegmentsSent(t, fd)
		})
		if connect != 1 || all != want {
			t.Errorf("SetQuickAck first: %v: sent %d segments to connect, %d in all, want 1, %d", quickAck, connect, all, want)
		}
	}
}

// A socket may connect to itself where no process listens. It does not count as a
// connection.
func TestConnectedToItself(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	defer unix.Close(fd)
	relaytest.Check(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := unix.Getsockname(fd)
	relaytest.Check(t, err)
	relaytest.Check(t, unix.Connect(fd, name))
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
	itself, err := peerSockaddr(addr)
	relaytest.Check(t, err)
	if !connectedToItself(fd, &itself) {
		t.Error("a socket that is connected to itself is not noticed")
	}
	other, err := peerSockaddr(netip.AddrPortFrom(addr.Addr(), addr.Port()^1))
	relaytest.Check(t, err)
	if connectedToItself(fd, &other) {
		t.Error("a socket counts as connected to itself at another port")
	}
	if _, err := os.Stat("/proc/self/net/tcp6"); err == nil {
		six, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		relaytest.Check(t, err)
		defer unix.Close(six)
		if connectedToItself(six, &itself) {
			t.Error("an IPv6 socket counts as connected to an IPv4 address")
		}
	}
}

func TestAwaitConnect(t *testing.T) {
	relaytest.NoLeaks(t)
	t.Run("established before", func(t *testing.T) {
		listener, addr := tcpListener(t)
		fd, _, err := ConnectTCPNonblock(addr)
		relaytest.Check(t, err)
		wantConnection(t, listener, fd)
	})
	t.Run("established later", func(t *testing.T) {
		silent, wake := silentListener(t)
		fd, done, err := ConnectTCPNonblock(silent)
		if err != nil || done {
			t.Fatalf("done is %v, error %v", done, err)
		}
		time.AfterFunc(20*time.Millisecond, wake)
		conn, err := AwaitConnect(t.Context(), fd)
		relaytest.Check(t, err)
		if got := conn.RemoteAddr().String(); got != silent.String() {
			t.Errorf("connected to %s, want %s", got, silent)
		}
		relaytest.Check(t, conn.Close())
	})
	t.Run("failed", func(t *testing.T) {
		listener, addr := tcpListener(t)
		fd, _, err := ConnectTCPNonblock(addr)
		relaytest.Check(t, err)
		peer, err := listener.Accept()
		relaytest.Check(t, err)
		Reset(peer)
		relaytest.Eventually(t, "the reset", func() bool { return PeerStateOfFD(fd).Failed })
		if conn, err := AwaitConnect(t.Context(), fd); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, %v", conn, err)
		}
		wantClosed(t, fd)
	})
	t.Run("refused", func(t *testing.T) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		relaytest.Check(t, err)
		listener, addr := tcpListener(t)
		relaytest.Check(t, listener.Close())
		_ = unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())})
		if conn, err := AwaitConnect(t.Context(), fd); err == nil {
			t.Errorf("got %v", conn)
		}
		wantClosed(t, fd)
	})
	t.Run("context", func(t *testing.T) {
		silent, _ := silentListener(t)
		for _, pause := range []time.Duration{0, 20 * time.Millisecond} {
			fd, done, err := ConnectTCPNonblock(silent)
			if err != nil || done {
				t.Fatalf("done is %v, error %v", done, err)
			}
			cause := errors.New("the client has left")
			ctx, cancel := context.WithCancelCause(t.Context())
			if pause == 0 {
				cancel(cause)
			} else {
				time.AfterFunc(pause, func() { cancel(cause) })
			}
			if conn, err := AwaitConnect(ctx, fd); err != cause {
				t.Errorf("got %v, %v, want %v", conn, err, cause)
			}
			wantClosed(t, fd)
		}
	})
}

// wantConnection checks that AwaitConnect returns a connection that works.
func wantConnection(t *testing.T, listener net.Listener, fd int) {
	t.Helper()
	conn, err := AwaitConnect(t.Context(), fd)
	relaytest.Check(t, err)
	defer conn.Close()
	if _, ok := conn.(*net.TCPConn); !ok {
		t.Errorf("got %T", conn)
	}
	peer, err := listener.Accept()
	relaytest.Check(t, err)
	defer peer.Close()
	relaytest.Check(t, conn.SetDeadline(time.Now().Add(relaytest.Limit)))
	relaytest.Check(t, peer.SetDeadline(time.Now().Add(relaytest.Limit)))
	got := make([]byte, 5)
	_, err = io.WriteString(conn, "hello")
	relaytest.Check(t, err)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "hello" {
		t.Errorf("the peer received %q, %v", got, err)
	}
	_, err = io.WriteString(peer, "there")
	relaytest.Check(t, err)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "there" {
		t.Errorf("received %q, %v", got, err)
	}
}

// wantClosed fails if a descriptor is open.
func wantClosed(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the descriptor is open: %v", err)
	}
}

func TestReadAndWriteNonblock(t *testing.T) {
	near, far := descriptorPair(t)
	buf := make([]byte, 1<<20)
	if n, errno := ReadNonblock(far, buf); n != 0 || errno != syscall.EAGAIN {
		t.Errorf("without bytes: %d, %v", n, errno)
	}
	sent := 0
	relaytest.Eventually(t, "a full socket", func() bool {
		n, errno := WriteNonblock(near, buf)
		if errno != 0 && errno != syscall.EAGAIN {
			t.Fatal(errno)
		}
		sent += n
		return errno == syscall.EAGAIN && !poll(near, unix.POLLOUT)
	})
	if errno := FinishWriting(near); errno != 0 {
		t.Error(errno)
	}
	for {
		awaitReadable(t, far)
		n, errno := ReadNonblock(far, buf)
		if errno != 0 && errno != syscall.EAGAIN {
			t.Fatal(errno)
		}
		if sent -= n; n == 0 && errno == 0 {
			break
		}
	}
	if sent != 0 {
		t.Errorf("%d bytes were sent and not received", sent)
	}
	if n, errno := WriteNonblock(near, buf); n != 0 || errno != syscall.EPIPE {
		t.Errorf("after the FIN: %d, %v", n, errno)
	}
}

// FinishWriting ends one direction. The other one continues.
func TestFinishWriting(t *testing.T) {
	near, far := descriptorPair(t)
	if errno := FinishWriting(near); errno != 0 {
		t.Error(errno)
	}
	buf := make([]byte, 10)
	awaitReadable(t, far)
	if n, errno := ReadNonblock(far, buf); n != 0 || errno != 0 {
		t.Errorf("%d, %v, want the end of the stream", n, errno)
	}
	if n, errno := WriteNonblock(far, []byte("answer")); n != 6 || errno != 0 {
		t.Errorf("%d, %v", n, errno)
	}
	awaitReadable(t, near)
	if n, errno := ReadNonblock(near, buf); string(buf[:n]) != "answer" || errno != 0 {
		t.Errorf("received %q, %v", buf[:n], errno)
	}
	ResetDescriptor(far)
	relaytest.Eventually(t, "the reset", func() bool { return PeerStateOfFD(near).Reset() })
	if errno := FinishWriting(near); errno != syscall.ENOTCONN {
		t.Errorf("after a reset: %v", errno)
	}
}

// A pipe takes bytes from a socket and gives them to another one, and to a read.
func TestSpliceNonblock(t *testing.T) {
	near, in := descriptorPair(t)
	out, far := descriptorPair(t)
	pipe, err := NewPipe(1 << 20)
	relaytest.Check(t, err)
	defer pipe.Close()
	buf := make([]byte, 1<<20)
	if n, errno := SpliceNonblock(in, pipe.Write, len(buf)); n != 0 || errno != syscall.EAGAIN {
		t.Errorf("without bytes: %d, %v", n, errno)
	}
	if n, errno := SpliceNonblock(pipe.Read, out, len(buf)); n != 0 || errno != syscall.EAGAIN {
		t.Errorf("from an empty pipe: %d, %v", n, errno)
	}
	if n, errno := pipe.ReadNonblock(buf); n != 0 || errno != syscall.EAGAIN {
		t.Errorf("read from an empty pipe: %d, %v", n, errno)
	}

	want := bytes.Repeat([]byte("0123456789"), 1000)
	fill := func() {
		t.Helper()
		if n, errno := WriteNonblock(near, want); n != len(want) || errno != 0 {
			t.Fatal(n, errno)
		}
		relaytest.Eventually(t, "all bytes", func() bool { n, _ := UnreadFD(in); return n == len(want) })
		if n, errno := SpliceNonblock(in, pipe.Write, len(buf)); n != len(want) || errno != 0 {
			t.Fatalf("into the pipe: %d, %v", n, errno)
		}
	}
	fill()
	if n, errno := SpliceNonblock(pipe.Read, out, 4000); n != 4000 || errno != 0 {
		t.Errorf("out of the pipe: %d, %v", n, errno)
	}
	if n, errno := SpliceNonblock(pipe.Read, out, len(buf)); n != len(want)-4000 || errno != 0 {
		t.Errorf("out of the pipe: %d, %v", n, errno)
	}
	relaytest.Eventually(t, "all bytes", func() bool { n, _ := UnreadFD(far); return n == len(want) })
	if n, errno := ReadNonblock(far, buf); errno != 0 || !bytes.Equal(buf[:n], want) {
		t.Errorf("received %d bytes, %v", n, errno)
	}
	fill()
	if n, errno := pipe.ReadNonblock(buf); errno != 0 || !bytes.Equal(buf[:n], want) {
		t.Errorf("read %d bytes from the pipe, %v", n, errno)
	}

	FinishWriting(near)
	awaitReadable(t, in)
	if n, errno := SpliceNonblock(in, pipe.Write, len(buf)); n != 0 || errno != 0 {
		t.Errorf("at the end of the stream: %d, %v", n, errno)
	}
}

// splice(2) returns 0 before urgent data if a FIN follows. A read continues.
func TestSpliceBeforeUrgentData(t *testing.T) {
	near, in := descriptorPair(t)
	pipe, err := NewPipe(1 << 16)
	relaytest.Check(t, err)
	defer pipe.Close()
	for i, word := range []string{"before", "!", "after"} {
		relaytest.Check(t, unix.Sendto(near, []byte(word), []int{0, unix.MSG_OOB, 0}[i], nil))
	}
	FinishWriting(near)
	relaytest.Eventually(t, "all bytes and the FIN", func() bool { n, _ := UnacknowledgedFD(near); return n == 0 })
	if n, errno := SpliceNonblock(in, pipe.Write, 1<<16); n != len("before") || errno != 0 {
		t.Errorf("before the urgent byte: %d, %v", n, errno)
	}
	if n, errno := SpliceNonblock(in, pipe.Write, 1<<16); n != 0 || errno != 0 {
		t.Errorf("at the urgent byte: %d, %v", n, errno)
	}
	buf := make([]byte, 10)
	if n, errno := ReadNonblock(in, buf); string(buf[:n]) != "after" || errno != 0 {
		t.Errorf("read %q after it, %v", buf[:n], errno)
	}
	if n, errno := ReadNonblock(in, buf); n != 0 || errno != 0 {
		t.Errorf("at the end of the stream: %d, %v", n, errno)
	}
}

func TestNewPipe(t *testing.T) {
	pipe, err := NewPipe(1 << 18)
	relaytest.Check(t, err)
	defer pipe.Close()
	if size, err := unix.FcntlInt(uintptr(pipe.Write), unix.F_GETPIPE_SZ, 0); err != nil || size < 1<<16 {
		t.Errorf("the pipe holds %d bytes, %v", size, err)
	}
	for _, fd := range []int{pipe.Read, pipe.Write} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("flags are %x, %v, want O_NONBLOCK", flags, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags are %x, %v, want FD_CLOEXEC", flags, err)
		}
	}
}

// A socket is low on room exactly while poll(2) finds no room, and takes what it has
// room for.
func TestRoom(t *testing.T) {
	near, far := descriptorPair(t)
	room, low, errno := RoomFD(near)
	if room <= 0 || low || errno != 0 {
		t.Errorf("an empty socket: %d, %v, %v", room, low, errno)
	}
	if n, errno := WriteNonblock(near, make([]byte, min(room/4, 16<<10))); n != min(room/4, 16<<10) || errno != 0 {
		t.Errorf("took %d bytes, %v", n, errno)
	}
	for errno = 0; errno == 0; {
		_, errno = WriteNonblock(near, make([]byte, 16<<10))
	}
	relaytest.Eventually(t, "a full socket", func() bool { _, low, _ := RoomFD(near); return low && !poll(near, unix.POLLOUT) })
	buf := make([]byte, 64<<10)
	relaytest.Eventually(t, "room", func() bool {
		_, _ = ReadNonblock(far, buf)
		_, low, _ := RoomFD(near)
		return !low
	})
	relaytest.Eventually(t, "room in poll", func() bool { return poll(near, unix.POLLOUT) })
	if _, _, errno := RoomFD(-1); errno != unix.EBADF {
		t.Errorf("no descriptor: %v", errno)
	}
}

func TestQueues(t *testing.T) {
	near, far := descriptorPair(t)
	want := func(what string, unacknowledged, unread int) {
		t.Helper()
		relaytest.Eventually(t, what, func() bool {
			out, ok := UnacknowledgedFD(near)
			in, okIn := UnreadFD(far)
			return ok && okIn && out == unacknowledged && in == unread
		})
	}
	want("empty queues", 0, 0)
	if n, errno := WriteNonblock(near, []byte("hello")); n != 5 || errno != 0 {
		t.Fatal(n, errno)
	}
	want("bytes that the peer's system has acknowledged", 0, 5)
	if n, errno := ReadNonblock(far, make([]byte, 3)); n != 3 || errno != 0 {
		t.Fatal(n, errno)
	}
	want("the rest", 0, 2)

	buf := make([]byte, 1<<20)
	relaytest.Eventually(t, "a full socket", func() bool {
		_, errno := WriteNonblock(near, buf)
		return errno == syscall.EAGAIN && !poll(near, unix.POLLOUT)
	})
	if n, ok := UnacknowledgedFD(near); !ok || n == 0 {
		t.Errorf("%d bytes unacknowledged, %v, although the peer does not read", n, ok)
	}
	FinishWriting(near)
	for { // until the FIN
		awaitReadable(t, far)
		if n, errno := ReadNonblock(far, buf); n == 0 && errno == 0 {
			break
		}
	}
	want("acknowledged bytes and FIN", 0, 0)
	if _, ok := UnacknowledgedFD(-1); ok {
		t.Error("a descriptor that is none has a queue")
	}
	if _, ok := UnreadFD(-1); ok {
		t.Error("a descriptor that is none has a queue")
	}
}
