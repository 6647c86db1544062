package module_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The tests in this file are the rows of the table of ends in which bytes could be
// lost, through a running Caddy and over its networks and ours. `.ci/run` repeats
// them without event loops.

// relayed returns a client's connection through a relay, and the backend's end.
func relayed(t *testing.T, addr string, backends *net.TCPListener) (client, backend *net.TCPConn) {
	t.Helper()
	client = dial(t, "tcp", addr).(*net.TCPConn)
	relaytest.Check(t, backends.SetDeadline(time.Now().Add(relaytest.Limit)))
	backend, err := backends.AcceptTCP()
	relaytest.Check(t, err)
	t.Cleanup(func() { backend.Close() })
	_ = backend.SetDeadline(time.Now().Add(relaytest.Limit))
	return client, backend
}

// startRelay starts a relay with options, and returns its address and the listener
// of its backend.
func startRelay(t *testing.T, options string) (addr string, backends *net.TCPListener) {
	t.Helper()
	ln, err := net.Listen("tcp", freeAddr(t))
	relaytest.Check(t, err)
	t.Cleanup(func() { ln.Close() })
	addr = freeAddr(t)
	start(t, fmt.Sprintf(`TCP/%s {
		route {
			relay %s {
				name %s
				%s
			}
		}
	}`, addr, ln.Addr(), serviceAt(addr), options)) // clients of an earlier service may still be rescued
	return addr, ln.(*net.TCPListener)
}

// receiveSlowly reads to the end of a stream with pauses, and returns what it has
// received and how the stream ended.
func receiveSlowly(conn net.Conn) (sum [sha256.Size]byte, n int, how string) {
	digest, buf := sha256.New(), make([]byte, 64<<10)
	for {
		time.Sleep(time.Millisecond)
		read, err := conn.Read(buf)
		digest.Write(buf[:read])
		n += read
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			how = "FIN"
		case errors.Is(err, syscall.ECONNRESET):
			how = "RST"
		default:
			how = err.Error()
		}
		digest.Sum(sum[:0])
		return sum, n, how
	}
}

func waitAcknowledged(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if _, known := netio.Unacknowledged(conn); !known {
		t.Skip("this system does not report acknowledged bytes")
	}
	relaytest.Eventually(t, "all bytes to be acknowledged", func() bool {
		n, _ := netio.Unacknowledged(conn)
		return n == 0
	})
}

func resetConn(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	relaytest.Check(t, conn.SetLinger(0))
	relaytest.Check(t, conn.Close())
}

// A backend that refuses an upload with an answer and closes: every client gets the
// answer.
func TestAnswerBeforeAClose(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		addr, backends := startRelay(t, "")
		const answer = "HTTP/1.1 413 Content Too Large\r\n\r\n"
		for i := range 100 {
			client, backend := relayed(t, addr, backends)
			uploaded := make(chan struct{})
			go func() { // ends when the client's connection fails or is closed
				defer close(uploaded)
				piece := make([]byte, 64<<10)
				for {
					if _, err := client.Write(piece); err != nil {
						return
					}
				}
			}()
			_, err := io.ReadFull(backend, make([]byte, 4<<10))
			relaytest.Check(t, err)
			_, err = io.WriteString(backend, answer)
			relaytest.Check(t, err)
			relaytest.Check(t, backend.Close())
			got := make([]byte, len(answer))
			if n, err := io.ReadFull(client, got); err != nil || string(got) != answer {
				t.Fatalf("client %d received %q, %v", i, got[:n], err)
			}
			relaytest.Check(t, client.Close())
			<-uploaded
		}
	})
}

// What the backend sent before its reset arrives, however slow the client is, and
// then the reset.
func TestBytesBeforeAReset(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		addr, backends := startRelay(t, "")
		client, backend := relayed(t, addr, backends)
		const size = 2_000_000
		want, err := relaytest.SendRandom(backend, size)
		relaytest.Check(t, err)
		waitAcknowledged(t, backend)
		resetConn(t, backend)
		if got, n, how := receiveSlowly(client); got != want || how != "RST" {
			t.Errorf("received %d of %d bytes and %s", n, size, how)
		}
	})
}

// What the backend sent before its FIN arrives, and the FIN, although the client has
// said more, which the backend's system answers with a reset.
func TestBytesBeforeAFIN(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		addr, backends := startRelay(t, "")
		client, backend := relayed(t, addr, backends)
		const size = 3_000_000
		want, err := relaytest.SendRandom(backend, size)
		relaytest.Check(t, err)
		waitAcknowledged(t, backend)
		relaytest.Check(t, backend.Close())
		for range 3 {
			_, err := io.WriteString(client, "more")
			relaytest.Check(t, err)
			time.Sleep(10 * time.Millisecond)
		}
		if got, n, how := receiveSlowly(client); got != want || how != "FIN" {
			t.Errorf("received %d of %d bytes and %s", n, size, how)
		}
	})
}

// An idle timeout in the middle of a transfer does not look like its end.
func TestIdleTimeoutOfAStalledTransfer(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		addr, backends := startRelay(t, "idle_timeout 1500ms")
		const size = 200_000_000 // more than all socket buffers on the way
		bytes := make([]byte, size)
		client, backend := relayed(t, addr, backends)
		sent := make(chan error, 1)
		go func() { // ends with the relay
			_, err := backend.Write(bytes)
			sent <- err
		}()
		relaytest.Receive(t, "the end of the stalled transfer", sent)
		if _, n, how := receiveSlowly(client); how != "RST" || n == size {
			t.Errorf("received %d of %d bytes and %s", n, size, how)
		}
	})
}

// Urgent data does not end a stream early. It arrives as plain data or is lost, as
// the sockets of this system decide.
func TestUrgentData(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems treat urgent data differently")
	}
	overBoth(t, func(t *testing.T) {
		addr, backends := startRelay(t, "")
		client := dial(t, "tcp", addr).(*net.TCPConn)
		piece := make([]byte, 102_400)
		for range 3 { // before the backend has accepted
			_, err := client.Write(piece)
			relaytest.Check(t, err)
			sendUrgent(t, client)
		}
		relaytest.Check(t, client.CloseWrite())
		relaytest.Check(t, backends.SetDeadline(time.Now().Add(relaytest.Limit)))
		backend, err := backends.AcceptTCP()
		relaytest.Check(t, err)
		defer backend.Close()
		if _, n, how := receiveSlowly(backend); n < 3*len(piece) || how != "FIN" {
			t.Errorf("received %d of %d bytes and %s", n, 3*len(piece), how)
		}
	})
}
