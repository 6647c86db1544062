package stream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Inputs of the state machine, by name: "client" and "backend" are the side that
// the input concerns, which is the source for end, reset, block, room and ack, and
// the sink for write failed.
var inputs = map[string]func(e *ends, side Side) output{
	"block":               func(e *ends, side Side) output { e.block(side); return 0 },
	"room":                (*ends).room,
	"end":                 (*ends).end,
	"reset before end":    (*ends).resetBeforeEnd,
	"reset after end":     (*ends).resetAfterEnd,
	"write failed":        func(e *ends, side Side) output { return e.writeFailed(side, true) },
	"write failed, EPIPE": func(e *ends, side Side) output { return e.writeFailed(side, false) },
	"ack":                 (*ends).acked,
	"idle":                func(e *ends, _ Side) output { return e.expire([2]bool{}) },
	"idle, owed":          func(e *ends, side Side) output { var owed [2]bool; owed[side] = true; return e.expire(owed) },
	"no half-close":       func(e *ends, _ Side) output { return e.cannotFinish([2]bool{}) },
	"cut":                 func(e *ends, _ Side) output { return e.cut(Shutdown) },
}

func (o output) String() string {
	var words []string
	for i, word := range []string{"finish", "await", "drop", "close"} {
		if o&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, "+")
}

func (f flow) String() string {
	return [...]string{"flowing", "blocked", "ending", "finished", "failing", "flushing", "discarding", "discarded"}[f]
}

func (c closing) String() string { return [...]string{"close", "FIN", "RST"}[c] }

var sides = map[string]Side{"client": ClientSide, "backend": BackendSide}

// step applies an input such as "client end".
func step(t *testing.T, e *ends, text string) output {
	t.Helper()
	who, what, _ := strings.Cut(text, " ")
	side, known := sides[who]
	input := inputs[what]
	if !known || input == nil {
		t.Fatalf("no input %q", text)
	}
	return input(e, side)
}

// TestEnds has a row for each way through the table of ends: inputs with the output
// of each, and what becomes of the client and of the backend, which is "" for a
// relay that is not over. Every row is also run with the sides exchanged.
func TestEnds(t *testing.T) {
	for _, row := range []struct {
		name   string
		steps  []string // "side input" or "side input: output"
		client string   // how it is closed
		server string
		reason Reason
	}{
		// One side finished sending: FIN on the other; the other direction continues.
		{"half-close", []string{"client end: finish"}, "", "", ClientClosed},
		{"both finish", []string{"client end: finish", "backend end: finish+close"}, "close", "close", ClientClosed},
		{"blocked FIN", []string{"client block", "client end", "client room: finish"}, "", "", ClientClosed},
		{"block and room", []string{"client block", "client room", "backend block", "backend room"}, "", "", ""},
		{"both finish, one of them blocked", []string{"client end: finish", "backend block", "backend end", "backend room: finish+close"}, "close", "close", ClientClosed},

		// Reset before the end: all bytes, then RST.
		{"reset", []string{"backend reset before end: await", "backend ack: close"}, "RST", "RST", BackendReset},
		{"reset after the other has finished", []string{"client end: finish", "backend reset before end: await", "backend ack: close"}, "RST", "close", BackendReset},
		{"reset with bytes held", []string{"backend block", "backend reset before end", "backend room: await", "backend ack: close"}, "RST", "RST", BackendReset},
		{"reset with bytes held for it", []string{"client block", "backend reset before end: await+drop", "backend ack: close"}, "RST", "RST", BackendReset},
		{"reset, then the other finishes", []string{"backend reset before end: await", "client end", "backend ack: close"}, "RST", "RST", BackendReset},
		{"reset, then the other is reset", []string{"backend reset before end: await", "client reset before end: close"}, "RST", "RST", BackendReset},
		{"reset with bytes held, then the other is reset", []string{"backend block", "backend reset before end", "client reset before end: drop+close"}, "RST", "RST", BackendReset},
		{"late ack", []string{"backend reset before end: await", "backend ack: close", "backend ack"}, "RST", "RST", BackendReset},

		// A write that fails: the socket is read to its end first.
		{"write failed", []string{"backend write failed", "backend end: await", "backend ack: close"}, "RST", "RST", BackendReset},
		{"write failed, and a read too", []string{"backend write failed", "backend reset before end: await", "backend ack: close"}, "RST", "RST", BackendReset},
		{"write failed with bytes held both ways", []string{"backend block", "client block", "backend write failed: drop", "backend room", "backend end: await", "backend ack: close"}, "RST", "RST", BackendReset},
		{"write failed, then the other finishes", []string{"backend write failed", "client end", "backend end: await", "backend ack: close"}, "RST", "RST", BackendReset},
		{"write failed at a FIN", []string{"client end: finish", "backend write failed, EPIPE", "backend reset before end: await", "backend ack: close"}, "RST", "close", BackendReset},
		{"write failed on both sides", []string{"backend write failed", "client write failed: close"}, "RST", "RST", BackendReset},

		// Reset after the end: all bytes, then FIN; the rest is discarded.
		{"write failed after a FIN in the queue", []string{"backend write failed, EPIPE", "backend end: finish", "client end: close"}, "close", "RST", BackendReset},
		{"write failed after a FIN", []string{"backend end: finish", "backend write failed", "client end: close"}, "close", "RST", BackendReset},
		{"write failed after a blocked FIN", []string{"backend block", "backend end", "backend write failed", "backend room: finish", "client end: close"}, "close", "RST", BackendReset},
		{"reset after a FIN", []string{"backend end: finish", "backend reset after end", "client end: close"}, "close", "RST", BackendReset},
		{"reset after a FIN, the other is reset", []string{"backend end: finish", "backend reset after end", "client reset before end: close"}, "close", "RST", BackendReset},
		{"reset after a FIN, the other is idle", []string{"backend end: finish", "backend reset after end", "client idle: close"}, "close", "RST", BackendReset},
		{"reset after a FIN, bytes held for it", []string{"client block", "backend end: finish", "backend reset after end: drop", "client end: close"}, "close", "RST", BackendReset},
		{"reset after a blocked FIN", []string{"backend block", "backend end", "backend reset after end", "client end", "backend room: finish+close"}, "close", "RST", BackendReset},
		{"both held, both end", []string{"client block", "client end", "backend end: finish", "backend reset after end: drop+close"}, "close", "RST", BackendReset},

		// The idle timeout: FIN on both; RST towards a side that is owed bytes.
		{"idle", []string{"client idle: close"}, "FIN", "FIN", IdleTimeout},
		{"idle, half-closed", []string{"client end: finish", "client idle: close"}, "FIN", "close", IdleTimeout},
		{"idle, the client is owed bytes", []string{"client idle, owed: close"}, "RST", "FIN", IdleTimeout},
		{"idle, the client is owed bytes before a FIN", []string{"backend end: finish", "client idle, owed: close"}, "close", "FIN", IdleTimeout},
		{"idle, bytes held", []string{"backend block", "client idle: close"}, "RST", "FIN", IdleTimeout},
		{"idle, bytes held before a FIN", []string{"backend block", "backend end", "client idle: close"}, "RST", "FIN", IdleTimeout},
		{"idle, bytes held before a reset", []string{"backend block", "backend reset before end", "client idle: close"}, "RST", "RST", BackendReset},
		{"idle, a reset waits", []string{"backend reset before end: await", "client idle: close"}, "RST", "RST", BackendReset},

		// A side without half-close.
		{"no half-close", []string{"backend end: finish", "client no half-close: close"}, "close", "FIN", BackendClosed},

		// A cut: RST.
		{"cut", []string{"client cut: close"}, "RST", "RST", Shutdown},
		{"cut, half-closed", []string{"client end: finish", "client cut: close"}, "RST", "RST", Shutdown},
		{"cut, discarding", []string{"backend end: finish", "backend reset after end", "client cut: close"}, "RST", "RST", Shutdown},
		{"cut, a reset waits", []string{"backend reset before end: await", "client cut: close"}, "RST", "RST", Shutdown},
		{"inputs after the end", []string{"client cut: close", "client end", "backend reset before end", "backend write failed", "client room", "client idle", "client cut", "backend ack"}, "RST", "RST", Shutdown},
	} {
		for _, exchanged := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, exchanged %v", row.name, exchanged), func(t *testing.T) {
				steps, client, backend, reason := row.steps, row.client, row.server, row.reason
				if exchanged {
					steps, client, backend, reason = exchangeAll(steps), backend, client, Reason(exchange(string(reason)))
				}
				var e ends
				for _, text := range steps {
					text, want, _ := strings.Cut(text, ": ")
					if got := step(t, &e, text); got.String() != want {
						t.Fatalf("after %q: %q, want %q (%v)", text, got, want, e.flows)
					}
				}
				if e.reason != reason {
					t.Errorf("reason %q, want %q", e.reason, reason)
				}
				if over := client != ""; e.over != over {
					t.Fatalf("over: %v, want %v (%v)", e.over, over, e.flows)
				} else if !over {
					return
				}
				if got := e.closing(ClientSide).String(); got != client {
					t.Errorf("the client is closed by %s, want %s (%v)", got, client, e.flows)
				}
				if got := e.closing(BackendSide).String(); got != backend {
					t.Errorf("the backend is closed by %s, want %s (%v)", got, backend, e.flows)
				}
			})
		}
	}
}

// exchange swaps the sides in a text.
func exchange(text string) string {
	return strings.NewReplacer("client", "backend", "backend", "client").Replace(text)
}

func exchangeAll(texts []string) (list []string) {
	for _, text := range texts {
		list = append(list, exchange(text))
	}
	return list
}

// A reset that a write has reported is not taken for a FIN.
func TestHidesReset(t *testing.T) {
	for _, test := range []struct {
		name           string
		steps          []string
		failed, closed bool
		want           bool
	}{
		{"the peer sent a FIN", nil, false, false, false},
		{"the error is pending: the FIN came before it", nil, true, true, false},
		{"the error is gone", nil, false, true, true},
		{"this side has sent a FIN, too", []string{"backend end"}, false, true, false},
		{"the write is recorded", []string{"client write failed"}, false, true, false},
	} {
		var e ends
		for _, text := range test.steps {
			step(t, &e, text)
		}
		if got := e.hidesReset(ClientSide, test.failed, test.closed); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// Whatever happens in whatever order: a relay that is over stays so with its reason;
// no FIN goes to a side unless its source has ended in order and all held bytes were
// delivered; and once both sources have ended and have been acknowledged, it is over.
func TestEndsInvariants(t *testing.T) {
	names := make([]string, 0, len(inputs))
	for name := range inputs {
		names = append(names, name)
	}
	slices.Sort(names)
	random := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		var e ends
		var ended, reset [2]bool // by side: what was put in, if it was possible then
		var trace []string
		for range 1 + random.IntN(12) {
			side := Side(random.IntN(2))
			name := names[random.IntN(len(names))]
			before := e
			switch flow := e.flows[side]; name { // skip what a mover cannot put in
			case "end", "reset before end":
				if !flow.reads() {
					continue
				}
			case "reset after end":
				if !flow.sourceEnded() {
					continue
				}
			case "block":
				if flow != flowing {
					continue
				}
			case "room":
				if !flow.holds() {
					continue
				}
			case "write failed", "write failed, EPIPE":
				if e.flows[side.other()] != flowing && !e.flows[side.other()].holds() && e.flows[side.other()] != finished {
					continue
				}
			case "ack":
				if flow != flushing {
					continue
				}
			case "no half-close":
				continue // follows a FIN only
			}
			out := inputs[name](&e, side)
			trace = append(trace, fmt.Sprintf("%d %s -> %v %v", side, name, out, e.flows))
			fail := func(what string) { t.Fatalf("%s:\n%s", what, strings.Join(trace, "\n")) }
			if before.over {
				if e.flows != before.flows || e.reason != before.reason || out != 0 {
					fail("changed after the end")
				}
				continue
			}
			ended[side] = ended[side] || name == "end"
			reset[side] = reset[side] || name == "reset before end"
			if e.over != (out&closeBoth != 0) {
				fail("over without close, or the other way round")
			}
			if out&sendFinish != 0 && (!ended[side] || reset[side] || e.lost[side] == lostReset || before.flows[side].holds() && name != "room") {
				fail("a FIN for a source that has not finished")
			}
			if out&awaitAck != 0 && e.flows[side] != flushing && !e.over {
				fail("waits for an acknowledgement in another state")
			}
			if e.over && e.reason == "" {
				fail("no reason")
			}
			if !e.over {
				open := false
				for _, f := range e.flows {
					open = open || f.reads() || f.holds() || f == flushing
				}
				if !open {
					fail("stuck: neither over nor anything to do")
				}
			}
		}
	}
}
