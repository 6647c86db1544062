package listen

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

type readResult struct {
	n     int
	err   error
	after time.Duration
}

// reading reads once in another goroutine.
func reading(conn *Conn) <-chan readResult {
	start := time.Now()
	result := make(chan readResult, 1)
	go func() {
		n, err := conn.Read(make([]byte, 100))
		result <- readResult{n, err, time.Since(start)}
	}()
	return result
}

func wantResult(t *testing.T, result <-chan readResult, n int, err error, after time.Duration) {
	t.Helper()
	if got := <-result; got.n != n || !errors.Is(got.err, err) || got.after != after {
		t.Errorf("read %d bytes, %v, after %v; want %d, %v, after %v", got.n, got.err, got.after, n, err, after)
	}
}

// A deadline is exact to the nanosecond and may be moved during a Read. It takes
// precedence over data, so that it also ends the reads of a client that never stops
// sending.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := fakeConn("a")
		buf := make([]byte, 100)
		_, err := conn.Read(buf)
		relaytest.Check(t, err)
		in := func(d time.Duration) { relaytest.Check(t, conn.SetReadDeadline(time.Now().Add(d))) }

		in(400 * time.Millisecond)
		wantResult(t, reading(conn), 0, os.ErrDeadlineExceeded, 400*time.Millisecond)
		wantResult(t, reading(conn), 0, os.ErrDeadlineExceeded, 0)
		conn.deliver([]byte("b"))
		wantResult(t, reading(conn), 0, os.ErrDeadlineExceeded, 0)
		relaytest.Check(t, conn.SetReadDeadline(time.Time{}))
		wantResult(t, reading(conn), 1, nil, 0)

		later := reading(conn)
		synctest.Wait()
		in(time.Hour)
		synctest.Wait()
		time.Sleep(time.Minute)
		in(time.Second) // earlier
		wantResult(t, later, 0, os.ErrDeadlineExceeded, time.Minute+time.Second)

		relaytest.Check(t, conn.SetDeadline(time.Time{}))
		later = reading(conn)
		in(time.Second)
		time.Sleep(999 * time.Millisecond)
		relaytest.Check(t, conn.SetReadDeadline(time.Time{})) // as layer4's routes do
		time.Sleep(time.Minute)
		conn.deliver([]byte("cc"))
		wantResult(t, later, 2, nil, time.Minute+999*time.Millisecond)

		later = reading(conn)
		synctest.Wait()
		relaytest.Check(t, conn.SetReadDeadline(time.Unix(1, 0))) // in the past
		wantResult(t, later, 0, os.ErrDeadlineExceeded, 0)
		relaytest.Check(t, conn.SetReadDeadline(time.Time{}))
		relaytest.Check(t, conn.SetWriteDeadline(time.Unix(1, 0)))

		one, two := reading(conn), reading(conn)
		synctest.Wait()
		conn.deliver([]byte("ddd"))
		conn.deliver([]byte("eee"))
		wantResult(t, one, 3, nil, 0)
		wantResult(t, two, 3, nil, 0)

		in(time.Hour)
		one, two = reading(conn), reading(conn)
		synctest.Wait()
		relaytest.Check(t, conn.Close())
		wantResult(t, one, 0, io.EOF, 0)
		wantResult(t, two, 0, io.EOF, 0)
		in(time.Hour) // must not start a timer
		if conn.timer != nil {
			t.Error("a client that has ended has a timer")
		}
	})
}

// Take ends a Read and stops its timer.
func TestDeadlineAndTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := fakeConn("a")
		_, err := conn.Read(make([]byte, 10))
		relaytest.Check(t, err)
		relaytest.Check(t, conn.SetReadDeadline(time.Now().Add(time.Hour)))
		result, in := reading(conn), conn.inbox
		synctest.Wait()
		conn.Take(0, each(func([]byte) {}))
		wantResult(t, result, 0, io.EOF, 0)
		relaytest.Check(t, conn.SetReadDeadline(time.Now().Add(time.Hour)))
		if in.timer != nil || conn.inbox != nil {
			t.Error("a client that was taken has a timer")
		}
		conn.End()
	})
}

// An idle client ends, unless it was taken over. A datagram in either direction
// restarts its timeout.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, l := fakeSocket()
		u.deliver(fakeKey(1), []byte("taken"))
		(<-l.conns).Take(0, each(func([]byte) {}))
		u.deliver(fakeKey(2), []byte("silent"))
		silent := <-l.conns
		u.deliver(fakeKey(3), []byte("a"))
		<-l.conns
		time.Sleep(idleTimeout - time.Minute)
		u.deliver(fakeKey(3), []byte("b"))
		wantCounts(t, u, 4, 3, 2)
		time.Sleep(time.Minute + sweepInterval)
		synctest.Wait()
		wantCounts(t, u, 3, 2, 1)
		if _, err := silent.Read(make([]byte, 10)); err != io.EOF {
			t.Errorf("read: %v", err)
		}
		time.Sleep(2 * idleTimeout)
		synctest.Wait()
		wantCounts(t, u, 2, 1, 0)
		if u.sweeping {
			t.Error("the timer runs without a client that it can end")
		}
		u.deliver(fakeKey(4), []byte("later"))
		<-l.conns
		time.Sleep(idleTimeout + 2*sweepInterval)
		synctest.Wait()
		wantCounts(t, u, 2, 1, 0)
	})
}

// A datagram that arrives just before expire keeps its client.
func TestDatagramBeforeExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := fakeConn("a")
		conn.socket.sweeper.Stop()
		time.Sleep(2 * idleTimeout)
		conn.deliver([]byte("b"))
		conn.expire()
		wantCounts(t, conn.socket, 2, 1, 1)
		time.Sleep(2 * idleTimeout)
		conn.expire()
		wantCounts(t, conn.socket, 1, 0, 0)
	})
}
