package stream

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// trialRig is a trial under test. The test has the other ends of its connections.
type trialRig struct {
	*recorder
	*Trial
	client  *net.TCPConn
	memory  *Memory
	carried chan struct{}
}

// trialSetup describes a trial under test: with kept bytes, and without time limits.
type trialSetup struct {
	keep      int           // 0: 1000; -1: none
	firstByte time.Duration // 0: none
	idle      time.Duration // 0: longIdle
	early     string
	header    int
	memory    int64 // 0: 1 MiB
	client    func(*net.TCPConn) Client
}

func newTrialRig(t *testing.T, engine Engine, s trialSetup) *trialRig {
	t.Helper()
	if s.client == nil {
		s.client = plainClient
	}
	switch s.keep {
	case 0:
		s.keep = 1000
	case -1:
		s.keep = 0
	}
	if s.idle == 0 {
		s.idle = longIdle
	}
	if s.memory == 0 {
		s.memory = 1 << 20
	}
	r := &trialRig{recorder: newRecorder(t), memory: NewMemory(s.memory), carried: make(chan struct{})}
	near, far := tcpPair(t, 0)
	r.client = near
	client := s.client(far)
	client.Early, client.HeaderLen = []byte(s.early), s.header
	r.Trial = NewTrial(client, r.recorder, NewWheel(s.idle), engine, TrialLimits{Keep: s.keep, FirstByte: s.firstByte, Memory: r.memory})
	t.Cleanup(func() {
		r.Cut(Shutdown)
		if used := r.memory.Used(); used != 0 {
			t.Errorf("%d kept bytes are still counted", used)
		}
	})
	return r
}

// result is the result of a Try.
type result struct {
	conn net.Conn
	err  error
}

// try starts a Try on a new backend, and returns the backend's end.
func (r *trialRig) try(ctx context.Context) (backend *net.TCPConn, done <-chan result) {
	r.t.Helper()
	near, far := tcpPair(r.t, 0)
	return far, r.tryOn(ctx, near)
}

// tryOn starts a Try on a backend whose end the test has already.
func (r *trialRig) tryOn(ctx context.Context, near *net.TCPConn) (done <-chan result) {
	results := make(chan result, 1)
	go func() { // ends with the trial
		conn, err := r.Try(ctx, near)
		results <- result{conn, err}
	}()
	return results
}

// wantFailed waits for a Try that fails with want.
func wantFailed(t *testing.T, done <-chan result, want error) {
	t.Helper()
	if got := relaytest.Receive(t, "the result of a trial", done); !errors.Is(got.err, want) {
		t.Fatalf("the trial returned %v, want %v", got.err, want)
	}
}

// carry waits for a Try that succeeds, and carries the bytes after it.
func (r *trialRig) carry(done <-chan result) {
	r.t.Helper()
	got := relaytest.Receive(r.t, "the result of a trial", done)
	relaytest.Check(r.t, got.err)
	go func() { // ends with the relay at the latest
		defer close(r.carried)
		r.Carry(got.conn, r.totals())
	}()
	r.t.Cleanup(func() {
		r.Cut(Shutdown)
		relaytest.Receive(r.t, "the end of Carry", r.carried)
	})
}

// forEachEngine runs a test with every mover after the trial, and with wrapped
// clients.
func forEachEngine(t *testing.T, test func(t *testing.T, engine Engine, client func(*net.TCPConn) Client)) {
	run := func(name string, engine Engine, client func(*net.TCPConn) Client) {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			if engine != nil {
				t.Cleanup(engine.(interface{ StopWhenIdle() }).StopWhenIdle)
			}
			test(t, engine, client)
		})
	}
	run("goroutines", nil, plainClient)
	run("wrapped", nil, wrappedClient)
	for _, e := range engines() {
		run(e.name, e.Engine, plainClient)
	}
}

// What the client has sent goes to each backend, until one answers. Then the bytes
// of both directions are carried.
func TestTrialReplaysToTheBackendThatAnswers(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{early: "HEADearly ", header: 4, client: client})
		say(t, r.client, "question")
		first, done := r.try(t.Context())
		hear(t, first, "HEADearly question")
		resetNow(t, first)
		wantFailed(t, done, ErrResetTooEarly)

		say(t, r.client, "!")
		second, done := r.try(t.Context())
		hear(t, second, "HEADearly question!")
		relaytest.Check(t, second.Close())
		wantFailed(t, done, ErrClosedTooEarly)

		third, done := r.try(t.Context())
		hear(t, third, "HEADearly question!")
		say(t, third, "answer")
		r.carry(done)
		hear(t, r.client, "answer")
		say(t, r.client, "more")
		hear(t, third, "more")
		if used := r.memory.Used(); used != 0 {
			t.Errorf("%d kept bytes are counted after the first byte", used)
		}
		relaytest.Check(t, r.client.CloseWrite())
		wantStream(t, "the backend", third, "", fin)
		relaytest.Check(t, third.Close())
		wantStream(t, "the client", r.client, "", fin)
		up := int64(len("early question!more"))
		if got := r.end(); got.Reason != ClientClosed || got.BytesUp != up || got.BytesDown != 6 || int64(r.up.Load()) != up {
			t.Errorf("ended as %+v with %d bytes up counted, want %d", got, r.up.Load(), up)
		}
	})
}

// The first byte of a backend and its end may come together: that is an answer.
func TestTrialOfAShortAnswer(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{client: client})
		backend, done := r.try(t.Context())
		say(t, backend, "bye")
		relaytest.Check(t, backend.Close())
		r.carry(done)
		wantStream(t, "the client", r.client, "bye", fin)
	})
}

// A FIN of the client is passed on in the trial, to each backend, and once.
func TestTrialPassesTheEndOfTheClientOn(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{client: client})
		say(t, r.client, "question")
		relaytest.Check(t, r.client.CloseWrite())
		first, done := r.try(t.Context())
		wantStream(t, "the first backend", first, "question", fin)
		resetNow(t, first)
		wantFailed(t, done, ErrResetTooEarly)
		second, done := r.try(t.Context())
		wantStream(t, "the second backend", second, "question", fin)
		say(t, second, "answer")
		r.carry(done)
		relaytest.Check(t, second.Close())
		wantStream(t, "the client", r.client, "answer", fin)
		r.wantEnd(ClientClosed, 8, 6)
	})
}

// A backend that closes after a client has finished has not failed: a log server
// answers nothing.
func TestTrialEndsOrderlyWithoutAnAnswer(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{client: client})
		say(t, r.client, "line")
		relaytest.Check(t, r.client.CloseWrite())
		backend, done := r.try(t.Context())
		wantStream(t, "the backend", backend, "line", fin)
		relaytest.Check(t, backend.Close())
		r.carry(done)
		wantStream(t, "the client", r.client, "", fin)
		r.wantEnd(ClientClosed, 4, 0)
	})
}

// A backend that is silent after the client's first bytes fails, and one that has
// nothing to answer yet does not.
func TestTrialLimitsTheFirstByte(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{firstByte: 50 * time.Millisecond, early: "HEAD", header: 4, client: client})
		first, done := r.try(t.Context())
		hear(t, first, "HEAD")
		time.Sleep(150 * time.Millisecond) // a limit that began with the header has passed
		say(t, r.client, "question")
		wantFailed(t, done, ErrNoFirstByte)
		wantStream(t, "the first backend", first, "question", rst)
		if !r.Replayable() {
			t.Fatal("the client is bound to the silent backend")
		}
		second, done := r.try(t.Context())
		wantFailed(t, done, ErrNoFirstByte) // the limit begins with the kept bytes
		_ = second
		near, third := tcpPair(t, 0)
		say(t, third, "answer") // before the limit begins, which a busy machine may exceed
		r.carry(r.tryOn(t.Context(), near))
		hear(t, r.client, "answer")
	})
}

// Without kept bytes a silent backend fails, too, but there is nothing to send to
// another one.
func TestTrialWithoutKeptBytes(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{keep: -1, firstByte: 50 * time.Millisecond, client: client})
		backend, done := r.try(t.Context())
		say(t, r.client, "question")
		wantFailed(t, done, ErrNoFirstByte)
		wantStream(t, "the backend", backend, "question", rst)
		if r.Replayable() {
			t.Error("the client is replayable")
		}
	})
}

// Without kept bytes, a reset of the backend is passed on as without a trial.
func TestTrialWithoutKeptBytesPassesAResetOn(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{keep: -1, firstByte: longIdle, client: client})
		backend, done := r.try(t.Context())
		say(t, r.client, "question")
		hear(t, backend, "question")
		resetNow(t, backend)
		r.carry(done)
		wantStream(t, "the client", r.client, "", rst)
		r.wantEnd(BackendReset, 8, 0)
	})
}

// A client that sends more than is kept is bound to its backend. No byte of it is
// lost.
func TestTrialOfALongUpload(t *testing.T) {
	for _, keep := range []int{1000, -1} {
		forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
			r := newTrialRig(t, engine, trialSetup{keep: keep, firstByte: longIdle, client: client})
			backend, done := r.try(t.Context())
			upload := relaytest.Transfer(r.client, backend, 3<<20, true)
			r.carry(done)
			wantDelivered(t, upload)
			if r.Replayable() {
				t.Error("the client is replayable")
			}
			say(t, backend, "thanks")
			hear(t, r.client, "thanks")
		})
	}
}

// Kept bytes are bounded over all trials. A client that finds no room for them is
// bound to its backend.
func TestTrialMemoryIsBounded(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newTrialRig(t, nil, trialSetup{memory: 10})
	backend, done := r.try(t.Context())
	say(t, r.client, strings.Repeat("x", 11))
	r.carry(done)
	hear(t, backend, strings.Repeat("x", 11))
	if r.Replayable() {
		t.Error("the client is replayable")
	}
}

// A client that resets its connection, and a context that ends, end the trial.
func TestTrialEndsWithItsClientAndContext(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		r := newTrialRig(t, engine, trialSetup{client: client})
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		say(t, r.client, "question")
		first, done := r.try(ctx)
		hear(t, first, "question")
		cancel(enough)
		wantFailed(t, done, enough)
		wantStream(t, "the backend", first, "", rst)

		second, done := r.try(t.Context())
		hear(t, second, "question")
		resetNow(t, r.client)
		wantFailed(t, done, ErrClientReset)
		wantStream(t, "the backend", second, "", rst)
	})
}

// A cut ends a relay that is searching, trying or carrying.
func TestTrialIsCut(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		for _, state := range []string{"searching", "trying", "carrying"} {
			r := newTrialRig(t, engine, trialSetup{client: client})
			var backend *net.TCPConn
			var done <-chan result
			if state != "searching" {
				say(t, r.client, "question")
				backend, done = r.try(t.Context())
				hear(t, backend, "question")
			}
			if state == "carrying" {
				say(t, backend, "answer")
				r.carry(done)
				hear(t, r.client, "answer")
			}
			r.Cut(Removed)
			r.Cut(Shutdown)
			wantStream(t, "the client", r.client, "", rst)
			if got := r.end(); got.Reason != Removed {
				t.Errorf("%s: ended as %+v", state, got)
			}
			if state == "trying" {
				wantFailed(t, done, ErrTrialEnded)
			}
			if backend != nil {
				wantStream(t, "the backend", backend, "", rst)
			}
		}
	})
}

// A trial without a byte in either direction ends by the idle timeout, with a FIN
// to both sides.
func TestTrialIsIdle(t *testing.T) {
	forEachEngine(t, func(t *testing.T, engine Engine, client func(*net.TCPConn) Client) {
		for idle := 100 * time.Millisecond; ; idle *= 2 {
			r := newTrialRig(t, engine, trialSetup{idle: idle, client: client})
			say(t, r.client, "question")
			backend, done := r.try(t.Context())
			r.carry(done)
			wantStream(t, "the client", r.client, "", fin)
			got, how := readToEnd(backend, 100, 0)
			if len(got) == 0 && idle < relaytest.Limit {
				continue // a busy machine needed longer to send the question
			}
			if string(got) != "question" || how != fin {
				t.Errorf("the backend received %q and %s", got, how)
			}
			r.wantEnd(IdleTimeout, 8, 0)
			return
		}
	})
}

// A panic of a wrapped connection ends the relay and nothing else.
func TestTrialPanics(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newTrialRig(t, nil, trialSetup{client: func(conn *net.TCPConn) Client {
		return Client{Conn: panickingConn{conn}, CloseWriter: conn, Socket: conn}
	}})
	r.mayPanic.Store(true)
	_, done := r.try(t.Context())
	wantFailed(t, done, ErrTrialEnded)
	if got := r.end(); got.Reason != Panicked {
		t.Errorf("ended as %+v", got)
	}
}

type panickingConn struct{ net.Conn }

func (panickingConn) Read([]byte) (int, error) { panic("a wrapper's bug") }
