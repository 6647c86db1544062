package handler

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// Datagrams that are delivered in one call are handled as if they were delivered
// one by one.

// group delivers datagrams of the n-th client in one call.
func (r *rig) group(n int, client Replier, texts ...string) {
	r.relay.Deliver(udpKey(n), bytesOfAll(texts), client)
}

func bytesOfAll(texts []string) (list [][]byte) {
	for _, text := range texts {
		list = append(list, []byte(text))
	}
	return list
}

func TestUDPGroupIsSentInOrder(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"})
	client := new(udpClient)
	r.group(1, client, "a", "", "c")
	r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < ", "1 < c")
	r.group(1, client, "d", "e")
	r.engine.wants(t, "1 < d", "1 < e")
	r.engine.socket(1).sink.Datagrams(bytesOfAll([]string{"A", "", "C"}))
	client.wants(t, "A", "", "C")
}

// A datagram that is too large does not affect those before and after it.
func TestUDPGroupWithOneTooLarge(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"})
	r.engine.onSend = func(_ *fakeSocket, d []byte) error {
		if string(d) == "big" {
			return syscall.EMSGSIZE
		}
		return nil
	}
	client := new(udpClient)
	r.group(1, client, "a")
	r.group(1, client, "b", "big", "c")
	r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b", "1 < big: "+syscall.EMSGSIZE.Error(), "1 < c")
	if got := r.session(1).backlog.texts(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("the backlog holds %q", got)
	}
	if n := r.session(1).requests; n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// If a socket fails within a group, the next socket sends all unanswered
// datagrams, once and in order.
func TestUDPGroupWithFailure(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
	r.engine.onSend = func(s *fakeSocket, d []byte) error {
		if string(d) == "c" && s.number <= 2 {
			return errRefused
		}
		return nil
	}
	client := new(udpClient)
	r.group(1, client, "a")
	r.group(1, client, "b", "c", "d", "e")
	r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b", "1 < c: "+errRefused.Error(), "1 close",
		"2 open 192.0.2.1:53", "2 < a", "2 < b", "2 < c: "+errRefused.Error(), "2 close",
		"3 open 192.0.2.2:53", "3 < a", "3 < b", "3 < c", "3 < d", "3 < e")
}

// After an answer, an error of the first datagram belongs to an earlier one.
func TestUDPGroupWithLateError(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"})
	client := new(udpClient)
	r.group(1, client, "a")
	r.engine.socket(1).answer("A")
	late := true
	r.engine.onSend = func(*fakeSocket, []byte) error {
		if late {
			late = false
			return errRefused
		}
		return nil
	}
	r.group(1, client, "b", "c")
	r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b: "+errRefused.Error(), "1 < b", "1 < c")
}

// Answers beyond the limit are dropped, also if they arrive in one batch.
func TestUDPGroupOfTooManyAnswers(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.UDPResponses = 1 })
	client := new(udpClient)
	r.group(1, client, "a", "b")
	r.engine.socket(1).sink.Datagrams(bytesOfAll([]string{"A", "B", "C"}))
	client.wants(t, "A", "B")
	client.wantReleased(t, 1)
	r.wantSessions(0)
}

func TestUDPDatagramRejected(t *testing.T) {
	for name, err := range map[string]error{"too large": errTooBig, "no memory": errNoMemory} {
		t.Run(name+": only that datagram is lost, no strike", func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"})
			r.engine.onSend = func(_ *fakeSocket, d []byte) error {
				if string(d) == "x" {
					return err
				}
				return nil
			}
			client := new(udpClient)
			r.deliver(1, client, "x", "a", "x", "b")
			bad := "1 < x: " + err.Error()
			r.engine.wants(t, "1 open 192.0.2.1:53", bad, "1 < a", bad, "1 < b")
			r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
			r.engine.socket(1).sink.Failed(errRefused) // it is not resent either
			r.engine.wants(t, "1 close", "2 open 192.0.2.1:53", "2 < a", "2 < b")
			// It is not counted either.
			use := r.service.Stats(time.Now()).Backends[0].Use[upstream.UDP]
			if use.DatagramsUp != 2 || use.BytesUp != 2 {
				t.Errorf("%d datagrams, %d bytes up", use.DatagramsUp, use.BytesUp)
			}
			r.session(1).end(stream.Shutdown)
			if up := r.line("relay ended").ContextMap()["datagrams_up"]; up != int64(2) {
				t.Errorf("the log line has %v datagrams, want 2", up)
			}
		})
	}
}
