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

// A reset after the FIN of the same side does not end the relay: what the other
// side still sends is discarded until it finishes.
func TestResetAfterAFIN(t *testing.T) {
	for _, side := range []string{"client", "backend"} {
		t.Run(side, func(t *testing.T) {
			r, client, backend, done := established(t)
			goes, stays, why := client, backend, stream.ClientReset
			if side == "backend" {
				goes, stays, why = backend, client, stream.BackendReset
			}
			check(t, goes.CloseWrite())
			wantEnding(t, "the other", stays, "FIN")
			say(t, stays, "still here")
			hear(t, goes, "still here")
			resetNow(t, goes)
			for range 20 {
				_, err := stays.Write(make([]byte, 1<<20))
				check(t, err)
			}
			r.wantLines("relay ended", 0)
			check(t, stays.CloseWrite())
			receiveFrom(t, "the end", done)
			r.wantReasons(why)
		})
	}
}

// What a side sent before its reset reaches the other one, however long that one
// takes, and the reset comes after it.
func TestResetWhileBlocked(t *testing.T) {
	for _, side := range []string{"client", "backend"} {
		t.Run(side, func(t *testing.T) {
			r, client, backend, done := established(t)
			goes, stays, why := client, backend, stream.ClientReset
			if side == "backend" {
				goes, stays, why = backend, client, stream.BackendReset
			}
			sent := sendUntilFull(t, goes)
			unsent := drainSendQueue(t, goes)
			resetNow(t, goes)
			r.wantLines("relay ended", 0)
			if got, how := countToEnd(stays); got != sent-unsent || how != "RST" {
				t.Errorf("received %d bytes and %s, want %d and RST", got, how, sent-unsent)
			}
			receiveFrom(t, "the end", done)
			r.wantReasons(why)
		})
	}
}

// The reset of a side that does not read ends the relay, and the other side, which
// still sends, sees a reset.
func TestResetByThePeerThatBlocks(t *testing.T) {
	r, client, backend, done := established(t)
	sendUntilFull(t, client)
	resetNow(t, backend)
	receiveFrom(t, "the end", done)
	r.wantReasons(stream.BackendReset)
	wantReset(t, client)
}

// countToEnd reads to the end of a stream. It returns how many bytes there were
// and how the stream ended.
func countToEnd(conn *net.TCPConn) (n int, how string) {
	counted := &countingConn{TCPConn: conn}
	how = ending(counted)
	return counted.n, how
}

type countingConn struct {
	*net.TCPConn
	n int
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.n += n
	return n, err
}

// WriteTo hides that of TCPConn, which would not count.
func (c *countingConn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

// drainSendQueue waits until a blocked sender's system sends no more, and returns
// how many bytes a reset would drop: those that the peer has not acknowledged.
func drainSendQueue(t *testing.T, conn *net.TCPConn) int {
	t.Helper()
	last, same := -1, 0
	for same < 20 {
		n, known := netio.Unacknowledged(conn)
		if !known {
			t.Skip("this system does not tell")
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

// An end that comes after all bytes of a blocked way is passed on after them.
func TestFINBehindABlockedWay(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Check(t, receiveFrom(t, "all bytes", relaytest.Transfer(client, backend, 16<<20, true)))
	check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.ClientClosed, 16<<20, 0)
}

// wantReset checks that a connection whose peer had finished before is reset,
// which a read would not show.
func wantReset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	eventually(t, "the reset", func() bool {
		check(t, conn.SetWriteDeadline(time.Now().Add(limit)))
		_, err := conn.Write([]byte("x"))
		return err != nil
	})
}
