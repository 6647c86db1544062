package relaytest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// TCPPair returns both ends of a connection over loopback. They are closed when
// the test ends.
func TCPPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	return TCPPairWithBuffers(t, 0)
}

// TCPPairWithBuffers is [TCPPair] with a size for the send and receive buffers of
// both sockets; 0 keeps the sizes of the system. Only Unix systems set it.
func TCPPairWithBuffers(t testing.TB, size int) (near, far *net.TCPConn) {
	t.Helper()
	var config net.ListenConfig
	var dialer net.Dialer
	if size > 0 {
		// Set before the connection is established: the receive buffer limits the window.
		control := func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { setBuffers(fd, size) })
		}
		config.Control, dialer.Control = control, control
	}
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	Check(t, err)
	defer listener.Close()
	conn, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	Check(t, err)
	t.Cleanup(func() { conn.Close() })
	accepted, err := listener.Accept()
	Check(t, err)
	t.Cleanup(func() { accepted.Close() })
	return conn.(*net.TCPConn), accepted.(*net.TCPConn)
}

// DialTCP connects to an address. The connection is closed when the test ends.
func DialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, Limit)
	Check(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// Write writes text to a connection. It waits at most for [Limit].
func Write(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	Check(t, conn.SetWriteDeadline(time.Now().Add(Limit)))
	_, err := io.WriteString(conn, text)
	Check(t, err)
}

// WantRead reads len(want) bytes from a connection and fails the test at once if
// they are not want. It waits at most for [Limit].
func WantRead(t testing.TB, conn net.Conn, want string) {
	t.Helper()
	Check(t, conn.SetReadDeadline(time.Now().Add(Limit)))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// Reset closes a connection with a RST.
func Reset(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	Check(t, conn.SetLinger(0))
	Check(t, conn.Close())
}

// WriteUntilFull writes to a connection whose peer does not read, until the buffers
// on the way are full, and returns the number of bytes written.
func WriteUntilFull(t testing.TB, conn *net.TCPConn) (written int) {
	t.Helper()
	piece := make([]byte, 1<<20)
	for {
		Check(t, conn.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := conn.Write(piece)
		written += n
		switch timeout := errors.Is(err, os.ErrDeadlineExceeded); {
		case err == nil, timeout && n > 0:
		case timeout:
			return written
		default:
			t.Fatal(err)
		}
	}
}
