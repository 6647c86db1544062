package listen

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

type readResult struct {
	n     int
	err   error
	after time.Duration
}

// reading reads in another goroutine.
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

// A deadline is exact to the nanosecond, may be moved while somebody reads, and
// goes before data, so that a client who sends without end does not outrun it.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := bareConn("a")
		buf := make([]byte, 100)
		_, err := conn.Read(buf)
		check(t, err)
		in := func(d time.Duration) { check(t, conn.SetReadDeadline(time.Now().Add(d))) }

		in(400 * time.Millisecond)
		wantResult(t, reading(conn), 0, os.ErrDeadlineExceeded, 400*time.Millisecond)
		wantResult(t, reading(conn), 0, os.ErrDeadlineExceeded, 0)
		conn.deliver([]byte("b"))
		wantResult(t, reading(conn), 0, os.ErrDeadlineExceeded, 0)
		check(t, conn.SetReadDeadline(time.Time{}))
		wantResult(t, reading(conn), 1, nil, 0)

		later := reading(conn)
		synctest.Wait()
		in(time.Hour)
		synctest.Wait()
		time.Sleep(time.Minute)
		in(time.Second) // earlier
		wantResult(t, later, 0, os.ErrDeadlineExceeded, time.Minute+time.Second)

		check(t, conn.SetDeadline(time.Time{}))
		later = reading(conn)
		in(time.Second)
		time.Sleep(999 * time.Millisecond)
		check(t, conn.SetReadDeadline(time.Time{})) // as the routes do
		time.Sleep(time.Minute)
		conn.deliver([]byte("cc"))
		wantResult(t, later, 2, nil, time.Minute+999*time.Millisecond)

		later = reading(conn)
		synctest.Wait()
		check(t, conn.SetReadDeadline(time.Unix(1, 0))) // long past
		wantResult(t, later, 0, os.ErrDeadlineExceeded, 0)
		check(t, conn.SetReadDeadline(time.Time{}))
		check(t, conn.SetWriteDeadline(time.Unix(1, 0)))

		one, two := reading(conn), reading(conn)
		synctest.Wait()
		conn.deliver([]byte("ddd"))
		conn.deliver([]byte("eee"))
		wantResult(t, one, 3, nil, 0)
		wantResult(t, two, 3, nil, 0)

		in(time.Hour)
		one, two = reading(conn), reading(conn)
		synctest.Wait()
		check(t, conn.Close())
		wantResult(t, one, 0, io.EOF, 0)
		wantResult(t, two, 0, io.EOF, 0)
		in(time.Hour) // leaves no timer behind
		if conn.alarm != nil {
			t.Error("a client that has ended has an alarm")
		}
	})
}

// Take ends a Read, and the deadline with it.
func TestDeadlineAndTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := bareConn("a")
		_, err := conn.Read(make([]byte, 10))
		check(t, err)
		check(t, conn.SetReadDeadline(time.Now().Add(time.Hour)))
		result, in := reading(conn), conn.inbox
		synctest.Wait()
		conn.Take(0, each(func([]byte) {}))
		wantResult(t, result, 0, io.EOF, 0)
		check(t, conn.SetReadDeadline(time.Now().Add(time.Hour)))
		if in.alarm != nil || conn.inbox != nil {
			t.Error("a client that was taken has an alarm")
		}
		conn.End()
	})
}

// A client that nobody takes and nobody hears of ends; a datagram either way
// keeps it, and one that was taken has another's timeout.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, l := bare()
		go u.sweep()
		defer func() { close(u.closed); synctest.Wait() }()
		u.deliver(made(1), []byte("taken"))
		(<-l.conns).Take(0, each(func([]byte) {}))
		u.deliver(made(2), []byte("silent"))
		silent := <-l.conns
		u.deliver(made(3), []byte("a"))
		<-l.conns
		time.Sleep(idleTimeout - time.Minute)
		u.deliver(made(3), []byte("b"))
		wantCounts(t, u, 4, 3, 2)
		time.Sleep(time.Minute + idleTimeout/10)
		synctest.Wait()
		wantCounts(t, u, 3, 2, 1)
		if _, err := silent.Read(make([]byte, 10)); err != io.EOF {
			t.Errorf("read: %v", err)
		}
		time.Sleep(2 * idleTimeout)
		synctest.Wait()
		wantCounts(t, u, 2, 1, 0)
	})
}

// A datagram that comes when the idle have been picked out keeps its client.
func TestIdleNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := bareConn("a")
		time.Sleep(2 * idleTimeout)
		conn.deliver([]byte("b"))
		conn.expire()
		wantCounts(t, conn.socket, 2, 1, 1)
		time.Sleep(2 * idleTimeout)
		conn.expire()
		wantCounts(t, conn.socket, 1, 0, 0)
	})
}
