package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Try sends the client's bytes to a backend, and returns nil once the backend has
// sent its first byte. [Trial.Carry] is to follow with the returned connection.
// It also returns nil once the client is bound to this backend: it has sent more
// than is kept, or both sides have finished, or nothing has passed for the idle
// timeout.
//
// If the backend has failed, the error is or wraps ErrNoFirstByte,
// ErrClosedTooEarly or ErrResetTooEarly. Try may then be called for another
// backend, if Replayable allows. The other errors are ErrClientReset, ErrTrialEnded
// and the cause of ctx. After an error, backend is closed.
func (t *Trial) Try(ctx context.Context, backend *net.TCPConn) (net.Conn, error) {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		netio.Reset(backend)
		return nil, ErrTrialEnded
	}
	t.backend, t.sent, t.passed = backend, 0, false
	t.mu.Unlock()
	a := &try{Trial: t, to: backend, touched: time.Now(), ended: make(chan struct{})}
	conn, err := a.run(ctx)
	t.mu.Lock()
	t.backend = nil
	if t.over {
		err = ErrTrialEnded
	}
	t.mu.Unlock()
	if err != nil {
		netio.Reset(backend)
		return nil, err
	}
	return conn, nil
}

// try is one call of [Trial.Try].
type try struct {
	*Trial
	to    *net.TCPConn
	ended chan struct{} // closed when the sender has ended

	clock       sync.Mutex // guards the fields below, and the read deadline of to
	touched     time.Time  // when bytes of the client were sent last
	checkAgain  time.Time  // a deadline was noticed late and is moved to this; zero: it was not
	firstSent   time.Time  // when its first bytes were sent; zero: not yet
	interrupted bool       // the wait for the first byte is over

	clientErr error // of reading the client; belongs to the sender until ended is closed, as does writeErr
	writeErr  error // of writing to the backend
}

// past is a deadline that ends a call at once.
var past = time.Unix(1, 0)

func (a *try) run(ctx context.Context) (net.Conn, error) {
	stop := context.AfterFunc(ctx, a.interrupt)
	defer stop()
	a.setDeadline()
	go a.send() // ended by the deadlines below
	conn, err := netio.AwaitReadable(a.to)
	for errors.Is(err, os.ErrDeadlineExceeded) && a.setDeadline() {
		conn, err = netio.AwaitReadable(a.to) // the deadline has moved
	}
	_ = a.client.Conn.SetReadDeadline(past)
	_ = a.to.SetWriteDeadline(past)
	<-a.ended
	_ = a.client.Conn.SetReadDeadline(time.Time{})
	_ = a.to.SetDeadline(time.Time{})
	return conn, a.judge(ctx, err)
}

// judge returns the error of a Try whose wait for the first byte ended with err.
func (a *try) judge(ctx context.Context, err error) error {
	switch {
	case errors.Is(a.clientErr, ErrClientReset):
		a.awaitAck(ctx) // the backend gets what the client has sent before its reset
		return a.clientErr
	case a.clientErr != nil:
		return a.clientErr
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return a.judgeDeadline(time.Now())
	}
	reset := !errors.Is(err, io.EOF)
	if !reset && a.writeErr != nil && !errors.Is(a.writeErr, os.ErrDeadlineExceeded) {
		reset, err = isReset(a.writeErr), a.writeErr // the write has returned the error of the socket
	}
	if !reset && a.passed { // what the backend had not read before it closed resets it
		a.awaitAck(ctx)
		reset = netio.PeerStateOf(a.to).Failed
	}
	switch {
	case a.bound || a.limits.Keep == 0:
		if reset {
			a.endsBy = BackendReset // no other mover would see it: the error was returned
		}
		return nil // the mover that follows passes a FIN on
	case reset:
		return fmt.Errorf("%w: %w", ErrResetTooEarly, err)
	case a.passed:
		return nil
	default:
		return ErrClosedTooEarly
	}
}

// judgeDeadline is judge for a wait that ended by its deadline.
func (a *try) judgeDeadline(now time.Time) error {
	a.clock.Lock()
	defer a.clock.Unlock()
	switch {
	case a.interrupted: // the client is bound to this backend
	case some(netio.Unread(a.to)): // it arrived with the deadline, or while the process was stopped
	case a.limits.FirstByte > 0 && !a.firstSent.IsZero() && !now.Before(a.firstSent.Add(a.limits.FirstByte)):
		return ErrNoFirstByte
	default:
		a.endsBy = IdleTimeout
	}
	return nil
}

// setDeadline sets the deadline of the wait for the first byte. It returns false if
// that has passed, or if the wait was interrupted. A deadline that is noticed late
// is moved once, as the turns of a [Wheel] are.
func (a *try) setDeadline() bool {
	a.clock.Lock()
	defer a.clock.Unlock()
	if a.interrupted {
		return false
	}
	deadline := a.touched.Add(a.wheel.timeout)
	if a.limits.FirstByte > 0 && !a.firstSent.IsZero() {
		if due := a.firstSent.Add(a.limits.FirstByte); due.Before(deadline) {
			deadline = due
		}
	}
	now := time.Now()
	if a.checkAgain.IsZero() && now.Sub(deadline) >= lateTurn {
		a.checkAgain = now.Add(catchUp)
	}
	if deadline.Before(a.checkAgain) {
		deadline = a.checkAgain
	}
	_ = a.to.SetReadDeadline(deadline)
	return now.Before(deadline)
}

// awaitAck waits until the backend has acknowledged all bytes, was reset, or ctx
// has ended, at most for the idle timeout. It does not wait on systems that do not
// report it.
func (a *try) awaitAck(ctx context.Context) {
	deadline := time.Now().Add(a.wheel.timeout)
	for pause := firstAckPause; ; pause = min(2*pause, maxAckPause) {
		n, known := netio.Unacknowledged(a.to)
		if !known || n == 0 || netio.PeerStateOf(a.to).Failed || !time.Now().Before(deadline) {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// interrupt ends the wait for the first byte.
func (a *try) interrupt() {
	a.clock.Lock()
	defer a.clock.Unlock()
	a.interrupted = true
	_ = a.to.SetReadDeadline(past)
}

// send sends the client's bytes to the backend: first what was sent to others
// before, then what the client sends now.
func (a *try) send() {
	defer close(a.ended)
	defer func() {
		if value := recover(); value != nil { // from a wrapped connection
			a.rules.Panicked(value)
			a.clientErr = ErrTrialEnded
			a.Cut(Panicked)
			a.interrupt()
		}
	}()
	early := a.client.Early
	if n := a.client.HeaderLen; n > 0 && !a.write(early[:n]) {
		return
	}
	if !a.writeOfClient(early[a.client.HeaderLen:]) || !a.writeOfClient(a.kept) {
		return
	}
	if a.finished {
		a.passEnd()
		return
	}
	reader := netio.NewReader(a.client.Conn)
	defer reader.Release()
	for {
		bytes, err := reader.Next()
		switch {
		case err == nil:
			if !a.pass(bytes) {
				return
			}
		case errors.Is(err, io.EOF):
			a.finished = true
			a.passEnd()
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			return // the wait is over
		default:
			a.clientErr = fmt.Errorf("%w: %w", ErrClientReset, err)
			a.interrupt()
			return
		}
	}
}

// passEnd passes the client's FIN on.
func (a *try) passEnd() { a.passed = a.to.CloseWrite() == nil }

// pass keeps bytes of the client, if it can, and sends them. It returns false if
// the sender must end.
func (a *try) pass(bytes []byte) bool {
	at := len(a.kept)
	a.kept = append(a.kept, bytes...)
	watched := a.limits.Keep
	if watched == 0 {
		watched, a.bound = watchedWithoutKeep, true
	}
	a.mu.Lock()
	fits := a.reserveLocked(len(bytes))
	a.mu.Unlock()
	if !fits || a.lost+len(a.kept) > watched {
		a.bound = true
		a.interrupt()
	}
	if !a.writeOfClient(a.kept[at:]) {
		return false
	}
	if a.limits.Keep == 0 {
		a.forget()
	}
	return fits && a.lost+len(a.kept) <= watched
}

// forget drops kept bytes, all of which were sent.
func (a *try) forget() {
	a.lost += len(a.kept)
	a.sent -= len(a.kept)
	a.kept = a.kept[:0]
	a.mu.Lock()
	a.releaseLocked()
	a.mu.Unlock()
}

// writeOfClient is write for bytes that the client has sent: they start the time
// limit of the first byte.
func (a *try) writeOfClient(bytes []byte) bool {
	if len(bytes) == 0 {
		return true
	}
	a.clock.Lock()
	a.touched = time.Now()
	if a.firstSent.IsZero() {
		a.firstSent = a.touched
	}
	a.clock.Unlock()
	if a.limits.FirstByte > 0 {
		a.setDeadline()
	}
	return a.write(bytes)
}

// write sends bytes to the backend. It returns false if the sender must end: the
// wait for the first byte is over, or its result tells why the backend takes no
// more.
func (a *try) write(bytes []byte) bool {
	n, err := a.to.Write(bytes)
	a.sent += n
	a.writeErr = err
	return err == nil
}
