package handler

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// The copy of a datagram that was sent is dropped without being counted. If its
// backend fails, only the remaining ones are sent again.
func TestUDPBacklogDropsCopies(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"}, withBacklogs(NewBacklogs(2*(16+slotBytes))))
	client := new(udpClient)
	for i := range 4 {
		r.deliver(i, client, fmt.Sprintf("datagram %d", i))
	}
	r.engine.wants(t, "1 open 192.0.2.1:53", "1 < datagram 0", "2 open 192.0.2.1:53", "2 < datagram 1",
		"3 open 192.0.2.1:53", "3 < datagram 2", "4 open 192.0.2.1:53", "4 < datagram 3")
	if got := r.service.floods.total(backlogsFull); got != 0 {
		t.Errorf("%d datagrams counted as dropped, want 0", got)
	}
	for i := range 4 {
		r.engine.socket(i + 1).answer(fmt.Sprint("answer ", i))
	}
	client.wants(t, "answer 0", "answer 1", "answer 2", "answer 3")

	r.deliver(5, client, "datagram 4") // sent; then its copy is dropped
	r.deliver(6, client, "datagram 5")
	r.deliver(7, client, "datagram 6")
	r.engine.wants(t, "5 open 192.0.2.1:53", "5 < datagram 4", "6 open 192.0.2.1:53", "6 < datagram 5", "7 open 192.0.2.1:53", "7 < datagram 6")
	r.engine.onSend = func(s *fakeSocket, _ []byte) error {
		if s.number == 5 {
			return errRefused // of datagram 4
		}
		return nil
	}
	r.deliver(5, client, "datagram 7")
	r.engine.wants(t, "5 < datagram 7: read: connection refused", "5 close", "8 open 192.0.2.1:53", "8 < datagram 7")
	r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
}

// A session that lost all its datagrams opens no socket. Its next datagram begins
// a new round.
func TestUDPBacklogCancelsRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBacklogs(16 + slotBytes)
		r := newUDPRig(t, []string{"a.example:53"}, withBacklogs(b))
		found := make(chan bool)
		r.resolver.set("a.example", waitAnswer(found, "192.0.2.1"))
		first := new(udpClient)
		r.deliver(1, first, "lost")
		time.Sleep(time.Millisecond)
		r.deliver(2, new(udpClient), "kept")
		close(found)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < kept")
		r.engine.socket(1).answer("KEPT")
		r.resolver.setCached("a.example", "192.0.2.1")
		r.deliver(1, first, "again")
		r.engine.wants(t, "2 open 192.0.2.1:53", "2 < again")
		r.engine.socket(2).answer("AGAIN")
		first.wants(t, "AGAIN")
		if got := r.service.floods.total(backlogsFull); got != 1 {
			t.Errorf("%d datagrams counted as dropped, want 1", got)
		}
		if up := r.service.Stats(time.Now()).Backends[0].Use[upstream.UDP].DatagramsUp; up != 2 {
			t.Errorf("%d datagrams counted as sent, want 2", up)
		}
	})
}

// A dropped datagram is owed no answer: with udp_responses 1, the answer to the
// remaining one ends the session.
func TestUDPBacklogResponses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"a.example:53"}, withBacklogs(NewBacklogs(2*slotBytes+16)), func(o *Options) { o.UDPResponses = 1 })
		found := make(chan bool)
		r.resolver.set("a.example", waitAnswer(found, "192.0.2.1"))
		r.deliver(1, new(udpClient), "datagram 1", "datagram 2")
		close(found)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < datagram 2")
		r.engine.socket(1).answer("A")
		r.wantSessions(0)
	})
}
