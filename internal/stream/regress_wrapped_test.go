package stream

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// slowClose is a connection whose Close takes until released.
type slowClose struct {
	net.Conn
	released chan struct{}
}

func (c slowClose) Close() error {
	<-c.released
	return c.Conn.Close()
}

// The Close of a wrapped connection may block, as that of TLS does. It does not
// delay the idle timeout of other relays.
func TestSlowCloseDelaysNoOtherIdleTimeout(t *testing.T) {
	relaytest.NoLeaks(t)
	released := make(chan struct{})
	wheel := NewWheel(100 * time.Millisecond)
	var rigs []*rig
	for i := range 9 {
		r := newRig(t, kind{name: "goroutines", new: NewMover}, setup{delay: true})
		client := wrappedClient(r.clientFar)
		if i == 4 {
			client.Conn = slowClose{r.clientFar, released}
		}
		r.mover = NewMover(client, r, wheel)
		rigs = append(rigs, r)
	}
	for _, r := range rigs {
		r.start()
	}
	for i, r := range rigs {
		if i != 4 {
			r.wantEnd(IdleTimeout, 0, 0)
		}
	}
	close(released)
	rigs[4].wantEnd(IdleTimeout, 0, 0)
}

// panickySocket is a socket whose SyscallConn panics once told to.
type panickySocket struct {
	*net.TCPConn
	panics *atomic.Bool
}

func (s panickySocket) SyscallConn() (syscall.RawConn, error) {
	if s.panics.Load() {
		panic("SyscallConn")
	}
	return s.TCPConn.SyscallConn()
}

// A panic at the idle timeout ends the relay, and leaves no lock held.
func TestPanicAtTheIdleTimeout(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, kind{name: "goroutines", new: NewMover}, setup{delay: true})
	r.mayPanic.Store(true)
	var panics atomic.Bool
	client := wrappedClient(r.clientFar)
	client.Socket = panickySocket{r.clientFar, &panics}
	r.mover = NewMover(client, r, NewWheel(longIdle))
	r.start()
	r.age()
	panics.Store(true)
	r.checkIdle()
	relaytest.Receive(t, "the panic", r.panics)
	r.wantEnd(Panicked, 0, 0)
}

// A client on a Unix socket that closes it has finished: a close of such a socket
// shuts down both directions at once.
func TestUnixClientThatCloses(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Unix sockets in temporary directories are not portable")
	}
	relaytest.NoLeaks(t)
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	relaytest.Check(t, err)
	defer listener.Close()
	near, err := net.Dial("unix", listener.Addr().String())
	relaytest.Check(t, err)
	far, err := listener.Accept()
	relaytest.Check(t, err)
	r := newRig(t, kind{name: "goroutines", new: NewMover}, setup{delay: true})
	r.mover = NewMover(Client{Conn: far, Socket: far, CloseWriter: far.(*net.UnixConn)}, r, NewWheel(longIdle))
	r.start()
	say(t, near, "request")
	relaytest.Check(t, near.Close())
	wantStream(t, "the backend", r.backend, "request", fin)
	relaytest.Check(t, r.backend.Close())
	r.wantEnd(ClientClosed, 7, 0)
}

// A TLS client that does not read for five seconds cannot be sent a close_notify
// any more. It is closed then, after the bytes before it: it would wait for the end
// of the stream until the idle timeout.
func TestCloseNotifyThatTimesOut(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, kind{name: "goroutines", new: NewMover}, setup{delay: true})
	client := wrappedClient(r.clientFar)
	client.CloseWriter = closeWriteFunc(func() error { return &net.OpError{Op: "write", Net: "tcp", Err: os.ErrDeadlineExceeded} })
	r.mover = NewMover(client, r, NewWheel(longIdle))
	r.start()
	answer := text(1_000_000)
	sending := async(func() {
		say(t, r.backend, answer)
		relaytest.Check(t, r.backend.CloseWrite())
	})
	wantSlowStream(t, "the client", r.client, answer, fin, 64<<10, time.Millisecond)
	sending()
	r.wantEnd(BackendClosed, 0, int64(len(answer)))
}

// A side that has sent bytes which its peer does not take sees a FIN at the idle
// timeout, also if its socket is plain but not of package net, as on relay+tcp/.
func TestIdleEndOfASocketOfItsOwnType(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, kind{name: "goroutines", new: NewMover}, setup{delay: true})
	client := struct{ *net.TCPConn }{r.clientFar}
	r.mover = NewMover(Client{Conn: client, Socket: client, CloseWriter: client}, r, NewWheel(longIdle))
	r.start()
	sendUntilFull(t, r.client) // no Write runs at the end: it would take the error of a RST
	r.expire()
	wantStream(t, "the client", r.client, "", fin)
	if end := r.end(); end.Reason != IdleTimeout {
		t.Errorf("ended as %+v", end)
	}
}
