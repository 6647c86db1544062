package stream

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// newReplayRig returns a trial whose client has sent a request and a FIN. A first
// backend has got both and reset the connection. The request is larger than the
// buffers of a connection.
func newReplayRig(t *testing.T, engine Engine, client func(*net.TCPConn) Client) (r *trialRig, request string) {
	t.Helper()
	const size = 8 << 20
	r = newTrialRig(t, engine, trialSetup{keep: size, memory: 2 * size, client: client})
	request = strings.Repeat("0123456789abcdef", size/16)
	sent := async(func() {
		say(t, r.client, request)
		relaytest.Check(t, r.client.CloseWrite())
	})
	first, done := r.try(t.Context())
	wantStream(t, "the first backend", first, request, fin)
	sent()
	resetNow(t, first)
	wantFailed(t, done, ErrResetTooEarly)
	return r, request
}

// A client that has finished is sent to the next backend whole, and with its FIN,
// although that backend answers before it has read anything.
func TestTrialReplaysMoreThanTheBackendTakes(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r, request := newReplayRig(t, engine, client)

		second, done := r.try(t.Context())
		say(t, second, "answer")
		r.carry(done)
		wantStream(t, "the second backend", second, request, fin)
		relaytest.Check(t, second.Close())
		wantStream(t, "the client", r.client, "answer", fin)
		r.wantEnd(ClientClosed, int64(len(request)), 6)
	})
}

// A backend that closes before it has got all that a finished client has sent has
// failed.
func TestTrialOfABackendThatClosesUnderAReplay(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r, _ := newReplayRig(t, engine, client)

		second, done := r.try(t.Context())
		relaytest.Check(t, second.CloseWrite())
		wantFailed(t, done, ErrClosedTooEarly)
	})
}

// A backend that resets a client that is bound to it and has finished resets the
// client, too: an answer of no bytes would look whole.
func TestTrialPassesAResetOnToAFinishedClient(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{keep: -1, firstByte: longIdle, client: client})
		backend, done := r.try(t.Context())
		say(t, r.client, "question")
		relaytest.Check(t, r.client.CloseWrite())
		wantStream(t, "the backend", backend, "question", fin)
		resetNow(t, backend)
		r.carry(done)
		wantStream(t, "the client", r.client, "", rst)
		r.wantEnd(BackendReset, 8, 0)
	})
}

// A backend that has not taken all bytes of an idle client is reset: a FIN would
// make the request look whole.
func TestTrialIsIdleWithBytesOwed(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		const size = 8 << 20
		r := newTrialRig(t, engine, trialSetup{keep: size, memory: 2 * size, idle: 300 * time.Millisecond, client: client})
		request := strings.Repeat("0123456789abcdef", size/16)
		sent := async(func() { _, _ = r.client.Write([]byte(request)) }) // it may be cut off
		backend, done := r.try(t.Context())
		r.carry(done)
		relaytest.Receive(t, "the end of Carry", r.carried)
		sent()
		if _, end := readToEnd(backend, 64<<10, 0); end != rst {
			t.Errorf("the backend got %v", end)
		}
	})
}

// A client that resets its connection after it has sent all delivers all to the
// backend first.
func TestTrialDeliversWhatAResetClientHasSent(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		const size = 1 << 20
		r := newTrialRig(t, engine, trialSetup{keep: 2 * size, memory: 4 * size, client: client})
		request := strings.Repeat("0123456789abcdef", size/16)
		backend, done := r.try(t.Context())
		say(t, r.client, request)
		waitAcknowledged(t, r.client)
		resetNow(t, r.client)
		time.Sleep(50 * time.Millisecond)
		wantStream(t, "the backend", backend, request, rst)
		wantFailed(t, done, ErrClientReset)
	})
}

// A backend that has closed its connection before it read the client's bytes has
// failed, although its FIN is all that is seen of it at first.
func TestTrialOfABackendThatReadsNothing(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{client: client})
		say(t, r.client, "line")
		relaytest.Check(t, r.client.CloseWrite())
		waitAcknowledged(t, r.client)
		for range 50 {
			near, far := tcpPair(t, 0)
			relaytest.Check(t, far.Close())
			if _, err := r.Try(t.Context(), near); !errors.Is(err, ErrClosedTooEarly) && !errors.Is(err, ErrResetTooEarly) {
				t.Fatalf("the trial returned %v", err)
			}
		}
	})
}

// A time limit that is noticed late, because the process was stopped, is checked
// again later. An answer that has arrived counts in any case.
func TestTrialLimitIsNoticedLate(t *testing.T) {
	near, far := tcpPair(t, 0)
	trial := NewTrial(plainClient(far), newRecorder(t), NewWheel(longIdle), nil, TrialLimits{Keep: 1000, FirstByte: time.Minute})
	a := &try{Trial: trial, to: near, touched: time.Now(), firstSent: time.Now().Add(-time.Minute - lateTurn)}
	if !a.setDeadline() {
		t.Error("the limit is not checked again")
	}
	a.checkAgain = time.Now()
	if a.setDeadline() {
		t.Error("the limit is checked a third time")
	}
	if err := a.judgeDeadline(time.Now()); err != ErrNoFirstByte {
		t.Errorf("a silent backend: %v", err)
	}
	say(t, far, "answer")
	relaytest.Eventually(t, "the answer to count", func() bool { return a.judgeDeadline(time.Now()) == nil })
}
