package handler

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// establishedReset is [established] for tests in which side, the client or the
// backend, resets its connection. why is the reason of the relay's end.
func establishedReset(t *testing.T, side string) (r *rig, resets, stays *net.TCPConn, why stream.Reason, done <-chan struct{}) {
	t.Helper()
	r, client, backend, done := established(t)
	if side == "backend" {
		return r, backend, client, stream.BackendReset, done
	}
	return r, client, backend, stream.ClientReset, done
}

// A reset after the FIN of the same side does not end the relay: bytes from the
// other side are discarded until it finishes.
func TestResetAfterAFIN(t *testing.T) {
	for _, side := range []string{"client", "backend"} {
		t.Run(side, func(t *testing.T) {
			r, resets, stays, why, done := establishedReset(t, side)
			relaytest.Check(t, resets.CloseWrite())
			wantEnding(t, "the other side", stays, "FIN")
			relaytest.Write(t, stays, "still here")
			relaytest.WantRead(t, resets, "still here")
			relaytest.Reset(t, resets)
			for range 20 {
				_, err := stays.Write(make([]byte, 1<<20))
				relaytest.Check(t, err)
			}
			r.wantLines("relay ended", 0)
			relaytest.Check(t, stays.CloseWrite())
			relaytest.Receive(t, "the end of the relay", done)
			r.wantReasons(why)
		})
	}
}

// All bytes that a side sent before its reset reach the other side, however slowly
// that side reads, and the reset follows them.
func TestResetWhileBlocked(t *testing.T) {
	for _, side := range []string{"client", "backend"} {
		t.Run(side, func(t *testing.T) {
			r, resets, stays, why, done := establishedReset(t, side)
			sent := relaytest.WriteUntilFull(t, resets)
			unsent := drainSendQueue(t, resets)
			relaytest.Reset(t, resets)
			r.wantLines("relay ended", 0)
			if got, how := countToEnd(stays); got != sent-unsent || how != "RST" {
				t.Errorf("received %d bytes and %s, want %d and RST", got, how, sent-unsent)
			}
			relaytest.Receive(t, "the end of the relay", done)
			r.wantReasons(why)
		})
	}
}

// A reset by a side that does not read ends the relay, and resets the other side,
// which is still sending.
func TestResetByPeerThatDoesNotRead(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.WriteUntilFull(t, client)
	relaytest.Reset(t, backend)
	relaytest.Receive(t, "the end of the relay", done)
	r.wantReasons(stream.BackendReset)
	wantReset(t, client)
}

// countToEnd reads to the end of a stream. It returns the number of bytes and how
// the stream ended.
func countToEnd(conn *net.TCPConn) (n int, how string) {
	counted := &countingConn{TCPConn: conn}
	how = ending(counted)
	return counted.n, how
}

// countingConn counts the bytes that are read from it.
type countingConn struct {
	*net.TCPConn
	n int
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.n += n
	return n, err
}

// WriteTo replaces the method of TCPConn, which does not count.
func (c *countingConn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

// drainSendQueue waits until the kernel of a blocked sender makes no more progress.
// It returns the number of bytes that a reset would drop, because the peer has not
// acknowledged them.
func drainSendQueue(t *testing.T, conn *net.TCPConn) int {
	t.Helper()
	last, same := -1, 0
	for same < 110 { // longer than the pauses between window probes, each of which may send bytes
		n, known := netio.Unacknowledged(conn)
		if !known {
			t.Skip("this system does not report unacknowledged bytes")
		}
		if n != last {
			last, same = n, 0
		} else {
			same++
		}
		time.Sleep(10 * time.Millisecond)
	}
	return last
}

// A FIN behind blocked bytes is passed on after them.
func TestFINBehindBlockedBytes(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Check(t, relaytest.Receive(t, "all bytes", relaytest.Transfer(client, backend, 16<<20, true)))
	relaytest.Check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.ClientClosed, 16<<20, 0)
}

// wantReset checks that a connection is reset whose peer had finished before. A
// read returns EOF then, and only a write fails.
func wantReset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	relaytest.Eventually(t, "a reset", func() bool {
		relaytest.Check(t, conn.SetWriteDeadline(time.Now().Add(relaytest.Limit)))
		_, err := conn.Write([]byte("x"))
		return err != nil
	})
}
