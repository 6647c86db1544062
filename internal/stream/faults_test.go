package stream

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The tests in this file are the rows of the table of ends in which bytes could be
// lost. All run with each mover, with a plain and a wrapped client, with the
// system's buffers and with small ones.

// variants runs a test in all combinations.
func variants(t *testing.T, test func(t *testing.T, k kind, s setup)) {
	forEachMover(t, func(t *testing.T, k kind) {
		for _, buffers := range []int{0, 8 << 10} {
			name := "default buffers"
			if buffers > 0 {
				name = "small buffers"
			}
			t.Run(name, func(t *testing.T) { test(t, k, setup{buffers: buffers}) })
		}
		if k.name == "goroutines" {
			t.Run("wrapped client", func(t *testing.T) { test(t, k, setup{client: wrappedClient}) })
		}
	})
}

// A backend reads a part of an upload, answers and closes with bytes unread, as
// web servers do that refuse an upload. The client gets the answer.
func TestAnswerBeforeAClose(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		for range 30 {
			r := newRig(t, k, s)
			answer := text(1000)
			uploading := async(func() { // ends when the client's connection fails
				piece := make([]byte, 64<<10)
				for {
					_ = r.client.SetWriteDeadline(time.Now().Add(relaytest.Limit))
					if _, err := r.client.Write(piece); err != nil {
						return
					}
				}
			})
			_, err := io.ReadFull(r.backend, make([]byte, 4<<10))
			relaytest.Check(t, err)
			say(t, r.backend, answer)
			relaytest.Check(t, r.backend.Close())
			// The end may look like a FIN: the upload may have received the RST.
			if got, how := readToEnd(r.client, 300, 0); string(got) != answer {
				t.Errorf("received %d of %d bytes and %s", len(got), len(answer), how)
			}
			// A backend that had nothing unread has sent a FIN: then the relay
			// discards the upload until it ends.
			relaytest.Check(t, r.client.Close())
			uploading()
			if end := r.end(); end.Reason != BackendReset || end.BytesDown != int64(len(answer)) {
				t.Errorf("ended as %+v", end)
			}
		}
	})
}

// Bytes that a side sent before its reset, and that the relay has acknowledged,
// arrive, followed by a reset.
func TestBytesBeforeAReset(t *testing.T) {
	for _, from := range []Side{ClientSide, BackendSide} {
		variants(t, func(t *testing.T, k kind, s setup) {
			for _, slow := range []bool{false, true} {
				size := 2_000_000
				if s.buffers > 0 {
					size = 12_000 // all of it must fit into the buffers between
				}
				r := newRig(t, k, s)
				bytes := text(size)
				goes, stays := r.side(from), r.side(from.other())
				reading := func() {}
				if !slow {
					reading = async(func() { wantStream(t, "a fast reader", stays, bytes, rst) })
				}
				say(t, goes, bytes)
				waitAcknowledged(t, goes)
				resetNow(t, goes)
				if slow {
					wantSlowStream(t, "a slow reader", stays, bytes, rst, 64<<10, time.Millisecond)
				}
				reading()
				if end := r.end(); end.Reason != from.reset() || end.BytesUp+end.BytesDown != int64(size) {
					t.Errorf("ended as %+v", end)
				}
			}
		})
	}
}

// Bytes before a FIN arrive complete, and the FIN, also if a reset follows because
// the other side has sent something more.
func TestBytesBeforeAFIN(t *testing.T) {
	for _, from := range []Side{ClientSide, BackendSide} {
		variants(t, func(t *testing.T, k kind, s setup) {
			size := 3_000_000
			if s.buffers > 0 {
				size = 12_000
			}
			r := newRig(t, k, s)
			bytes := text(size)
			goes, stays := r.side(from), r.side(from.other())
			say(t, goes, bytes)
			waitAcknowledged(t, goes)
			relaytest.Check(t, goes.Close())
			say(t, stays, "more") // the system of the side that closed answers with a RST
			time.Sleep(10 * time.Millisecond)
			say(t, stays, "and more")
			wantSlowStream(t, "a slow reader", stays, bytes, fin, 64<<10, time.Millisecond)
			say(t, stays, strings.Repeat("discarded", 100_000))
			r.wantRunning()
			relaytest.Check(t, stays.CloseWrite())
			if end := r.end(); end.Reason != from.reset() {
				t.Errorf("ended as %+v", end)
			}
		})
	}
}

// An idle relay ends with a FIN to a side that has everything, and with a RST to
// one that lacks bytes.
func TestIdleEndsOfAStalledTransfer(t *testing.T) {
	for _, from := range []Side{ClientSide, BackendSide} {
		variants(t, func(t *testing.T, k kind, s setup) {
			const size = 64 << 20 // more than all buffers hold
			r := newRig(t, k, s)
			goes, stays := r.side(from), r.side(from.other())
			sending := async(func() { _, _ = goes.Write(make([]byte, size)) })
			relaytest.Eventually(t, "unread bytes", func() bool { n, known := netio.Unread(stays); return !known || n > 0 })
			r.expire()
			if end := r.end(); end.Reason != IdleTimeout {
				t.Errorf("ended as %+v", end)
			}
			if got, how := readToEnd(stays, 64<<10, 0); how != rst || len(got) >= size {
				t.Errorf("received %d bytes and %s", len(got), how)
			}
			// The close of a wrapped client sends a RST, because its bytes are unread.
			if _, how := readToEnd(goes, 64<<10, 0); how != fin && (s.client == nil || from == BackendSide) {
				t.Errorf("the sender received %s", how)
			}
			sending()
		})
	}
}

func TestIdleEndsInOrder(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		r := newRig(t, k, s)
		say(t, r.client, "question")
		hear(t, r.backend, "question")
		// The backend may read before the relay's write returns: the relay counts
		// the bytes after that, and until then they are undelivered for it.
		relaytest.Eventually(t, "the relay to count the question", func() bool { return r.up.Load() == 8 })
		r.expire()
		wantStream(t, "the client", r.client, "", fin)
		wantStream(t, "the backend", r.backend, "", fin)
		r.wantEnd(IdleTimeout, 8, 0)
	})
}

// A side that only sends to a side that is gone does not keep the relay alive.
func TestDiscardedBytesAreNoTraffic(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		r := newRig(t, k, s)
		relaytest.Check(t, r.client.Close())
		wantStream(t, "the backend", r.backend, "", fin)
		// The first bytes are traffic: the relay learns from them that the client is gone.
		relaytest.Eventually(t, "the loss of the client", func() bool {
			say(t, r.backend, "to a client that has closed")
			return r.flow(BackendSide) == discarding
		})
		r.age()
		say(t, r.backend, "no traffic")
		waitAcknowledged(t, r.backend)
		time.Sleep(10 * time.Millisecond) // time for the relay to read it
		r.checkIdle()
		if end := r.end(); end.Reason != ClientReset {
			t.Errorf("ended as %+v", end)
		}
	})
}

// A reset that waits for an acknowledgement does not wait longer than the idle
// timeout.
func TestResetIsNotHeldBackForEver(t *testing.T) {
	forEachMover(t, func(t *testing.T, k kind) {
		bytes := make([]byte, 64<<20) // more than all buffers hold
		r := newRig(t, k, setup{idle: 300 * time.Millisecond, delay: true})
		sending := async(func() { _, _ = r.backend.Write(bytes) })
		relaytest.Eventually(t, "bytes that the client does not read", func() bool {
			n, known := netio.Unacknowledged(r.backend)
			return !known || n > 0
		})
		r.start() // not before: the relay could be idle before the first byte
		resetNow(t, r.backend)
		sending()
		if end := r.end(); end.Reason != BackendReset && end.Reason != IdleTimeout {
			t.Errorf("ended as %+v", end)
		}
		if _, how := readToEnd(r.client, 64<<10, 0); how != rst {
			t.Errorf("the client received %s", how)
		}
	})
}

// A cut resets both sides, whatever state they are in.
func TestCutResetsBothSides(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		r := newRig(t, k, s)
		say(t, r.client, "question")
		hear(t, r.backend, "question")
		r.mover.Cut(Shutdown)
		r.mover.Cut(Removed)
		wantStream(t, "the client", r.client, "", rst)
		wantStream(t, "the backend", r.backend, "", rst)
		r.wantEnd(Shutdown, 8, 0)
	})
}

func TestCutBeforeCarry(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		s.delay = true
		r := newRig(t, k, s)
		r.mover.Cut(RefusedNoBackend)
		wantStream(t, "the client", r.client, "", rst)
		r.wantEnd(RefusedNoBackend, 0, 0)
		r.start() // a backend that was found too late
		wantStream(t, "the backend", r.backend, "", rst)
	})
}

// Half-closes work in both directions, and both ends are passed on.
func TestHalfCloses(t *testing.T) {
	for _, first := range []Side{ClientSide, BackendSide} {
		variants(t, func(t *testing.T, k kind, s setup) {
			r := newRig(t, k, s)
			early, late := r.side(first), r.side(first.other())
			say(t, early, "first")
			relaytest.Check(t, early.CloseWrite())
			wantStream(t, "the side that sends on", late, "first", fin)
			bytes := text(500_000)
			sending := async(func() {
				say(t, late, bytes)
				relaytest.Check(t, late.CloseWrite())
			})
			wantStream(t, "the side that has finished", early, bytes, fin)
			sending()
			if end := r.end(); end.Reason != first.closed() || end.BytesUp+end.BytesDown != int64(len(bytes)+5) {
				t.Errorf("ended as %+v", end)
			}
		})
	}
}

// A client that cannot be half-closed is closed with the backend's end.
func TestClientWithoutHalfClose(t *testing.T) {
	forEachMover(t, func(t *testing.T, k kind) {
		if k.name != "goroutines" {
			t.Skip("movers on loops have plain sockets only")
		}
		r := newRig(t, k, setup{client: func(conn *net.TCPConn) Client {
			return Client{Conn: struct{ net.Conn }{conn}, Socket: conn}
		}})
		say(t, r.backend, "answer")
		relaytest.Check(t, r.backend.CloseWrite())
		wantStream(t, "the client", r.client, "answer", fin)
		r.wantEnd(BackendClosed, 0, 6)
		wantStream(t, "the backend", r.backend, "", fin)
	})
}

// The system returns the error of a reset once. If a write has returned it before
// the relay began, a read returns the end of the stream, which is no FIN.
func TestResetThatWasReportedBefore(t *testing.T) {
	forEachMover(t, func(t *testing.T, k kind) {
		r := newRig(t, k, setup{delay: true})
		resetNow(t, r.backend)
		relaytest.Eventually(t, "the reset", func() bool { return netio.PeerStateOf(r.backendNear).Reset() })
		if _, err := r.backendNear.Write([]byte("x")); err == nil {
			t.Fatal("the write did not fail")
		}
		r.start()
		wantStream(t, "the client", r.client, "", rst)
		r.wantEnd(BackendReset, 0, 0)
	})
}
