package stream

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// brittle is a wrapped connection whose methods panic.
type brittle struct {
	net.Conn
	read, write, close bool
}

func (b brittle) Read(p []byte) (int, error) {
	if b.read {
		panic("read panics")
	}
	return b.Conn.Read(p)
}

func (b brittle) Write(p []byte) (int, error) {
	if b.write {
		panic("write panics")
	}
	return b.Conn.Write(p)
}

func (b brittle) Close() error {
	if b.close {
		panic("close panics")
	}
	return b.Conn.Close()
}

// A panic of a wrapped connection ends its relay with resets. It is reported once,
// and so is the end, whose reason it is.
func TestPanicsOfAWrappedClient(t *testing.T) {
	for _, test := range []struct {
		name    string
		brittle brittle
		want    string
	}{
		{"Read", brittle{read: true}, "read panics"},
		{"Write", brittle{write: true}, "write panics"},
		{"Read, then Close", brittle{read: true, close: true}, "read panics"},
		{"Write, then Close", brittle{write: true, close: true}, "write panics"},
	} {
		t.Run(test.name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			r := newRig(t, kind{new: NewMover}, setup{delay: true, client: func(conn *net.TCPConn) Client {
				b := test.brittle
				b.Conn = conn
				return Client{Conn: b, CloseWriter: conn, Socket: conn}
			}})
			r.mayPanic.Store(true)
			if test.brittle.write {
				say(t, r.backend, "hello")
			}
			r.start()
			if end := r.end(); end.Reason != Panicked || end.BytesDown != 0 {
				t.Errorf("ended as %+v", end)
			}
			r.wantOnePanic(test.want)
			if _, how := readToEnd(r.client, 100, 0); how != rst {
				t.Errorf("the client received %s", how)
			}
			if _, how := readToEnd(r.backend, 100, 0); how != rst {
				t.Errorf("the backend received %s", how)
			}
		})
	}
}

// wantOnePanic checks that a panic was reported, and waits for a second one.
func (r *rig) wantOnePanic(want any) {
	r.t.Helper()
	if value := relaytest.Receive(r.t, "the panic", r.panics); value != want {
		r.t.Errorf("panicked with %v, want %v", value, want)
	}
	r.mover.Cut(Shutdown)
	relaytest.Receive(r.t, "the end of Carry", r.carried)
	if len(r.panics) > 0 || r.ends.Load() != 1 {
		r.t.Errorf("%d more panics and %d ends are reported", len(r.panics), r.ends.Load())
	}
}

// A client whose Close panics is closed all the same, however its relay ends.
func TestCloseOfAWrappedClientPanics(t *testing.T) {
	for _, by := range []Reason{ClientClosed, IdleTimeout, Shutdown, RefusedNoBackend} {
		t.Run(string(by), func(t *testing.T) {
			relaytest.NoLeaks(t)
			s := setup{delay: true, client: func(conn *net.TCPConn) Client {
				return Client{Conn: brittle{Conn: conn, close: true}, CloseWriter: conn, Socket: conn}
			}}
			r := newRig(t, kind{new: NewMover}, s)
			r.mayPanic.Store(true)
			if by != RefusedNoBackend {
				r.start()
				say(t, r.client, "question")
				hear(t, r.backend, "question")
			}
			switch by {
			case ClientClosed:
				relaytest.Check(t, r.client.CloseWrite())
				wantStream(t, "the backend", r.backend, "", fin)
				relaytest.Check(t, r.backend.CloseWrite())
			case IdleTimeout:
				r.expire()
			case Shutdown, RefusedNoBackend:
				r.mover.Cut(by)
			}
			if end := r.end(); end.Reason != by {
				t.Errorf("ended as %+v", end)
			}
			if by == RefusedNoBackend {
				r.start() // a backend that was found too late
			}
			r.wantOnePanic("close panics")
			if _, how := readToEnd(r.client, 100, 0); how != rst && how != fin {
				t.Errorf("the client received %s", how)
			}
			if _, how := readToEnd(r.backend, 100, 0); how != rst && how != fin {
				t.Errorf("the backend received %s", how)
			}
		})
	}
}

// A client whose half-close panics ends its relay, also if its other direction has
// ended before, so that this was the last thing to do.
func TestCloseWriteOfAWrappedClientPanics(t *testing.T) {
	for _, last := range []bool{false, true} {
		relaytest.NoLeaks(t)
		r := newRig(t, kind{new: NewMover}, setup{client: func(conn *net.TCPConn) Client {
			return Client{Conn: struct{ net.Conn }{conn}, CloseWriter: closeWriteFunc(func() error { panic("close panics") }), Socket: conn}
		}})
		r.mayPanic.Store(true)
		if last {
			relaytest.Check(t, r.client.CloseWrite())
			wantStream(t, "the backend", r.backend, "", fin)
		}
		relaytest.Check(t, r.backend.CloseWrite())
		if end := r.end(); end.Reason != Panicked && !last || end.Reason != ClientClosed && last {
			t.Errorf("ended as %+v", end)
		}
		r.wantOnePanic("close panics")
		if _, how := readToEnd(r.client, 100, 0); how != rst && !last || how != fin && last {
			t.Errorf("the client received %s", how)
		}
	}
}

// The end of a relay is reported once, and its last byte is counted, whatever ends
// it at the same time: cuts, its idle timeout, either peer.
func TestEndedOnce(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	variants(t, func(t *testing.T, k kind, s setup) {
		for round := range rounds {
			s.idle = 4 * time.Millisecond
			s.delay = round%4 == 0
			r := newRig(t, k, s)
			relaytest.Check(t, r.client.SetWriteDeadline(time.Now().Add(relaytest.Limit)))
			relaytest.Check(t, r.backend.SetWriteDeadline(time.Now().Add(relaytest.Limit)))
			var all sync.WaitGroup
			for _, act := range []func(){
				func() { r.mover.Cut(Shutdown) },
				func() { r.mover.Cut(Removed) },
				func() { _ = r.client.SetLinger(0); _ = r.client.Close() },
				func() { _ = r.backend.Close() },
				func() { _, _ = r.client.Write(make([]byte, 1<<20)) },
				func() { _, _ = r.backend.Write(make([]byte, 1<<20)) },
				func() { _ = r.mover.ClientReset() },
				func() {
					if s.delay {
						r.start()
					}
				},
			} {
				pause := time.Duration(rand.IntN(5000)) * time.Microsecond
				all.Go(func() { // ends with the relay, or at the deadline
					time.Sleep(pause)
					act()
				})
			}
			all.Wait()
			end := r.end()
			if end.Reason == "" || end.Err != nil || uint64(end.BytesUp) != r.up.Load() || uint64(end.BytesDown) != r.down.Load() {
				t.Errorf("ended as %+v, counted %d bytes up and %d down", end, r.up.Load(), r.down.Load())
			}
			relaytest.Receive(t, "the end of Carry", r.carried)
			if n := r.ends.Load(); n != 1 {
				t.Fatalf("%d ends", n)
			}
		}
	})
}
