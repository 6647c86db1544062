package handler

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/dgram"
)

// This file asks that datagrams which come at once fare as they would one by
// one.

// group delivers datagrams of the n-th client at once.
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

// One that is too big keeps neither those before nor those behind it.
func TestUDPGroupWithOneTooBig(t *testing.T) {
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
		t.Errorf("kept %q", got)
	}
	if n := r.session(1).requests; n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// A socket that fails in the midst of a group: the next one gets all that has
// no answer, once and in order.
func TestUDPGroupMeetsAFailure(t *testing.T) {
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

// After an answer, an error of the first datagram is an earlier one's.
func TestUDPGroupMeetsALateWord(t *testing.T) {
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

// Of answers that come at once, those beyond the last one wanted are nobody's.
func TestUDPGroupOfAnswersBeyondTheLimit(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.UDPResponses = 1 })
	client := new(udpClient)
	r.group(1, client, "a", "b")
	r.engine.socket(1).sink.Datagrams(bytesOfAll([]string{"A", "B", "C"}))
	client.wants(t, "A", "B")
	client.wantReleased(t, 1)
	r.wantSessions(0)
}

// keep is add and trim, and copies no more than it must.
func TestBacklogKeep(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var kept, plain backlog
	for range 3000 {
		var sent [][]byte
		size := []int{0, 10, 1400, 9000, 65507}[random.IntN(5)]
		for i := range 1 + random.IntN(64) {
			sent = append(sent, bytes.Repeat([]byte{byte(i)}, random.IntN(size+1)))
		}
		kept.addSent(sent)
		for _, d := range sent {
			plain.add(d)
			plain.trim()
		}
		if !slices.Equal(kept.texts(), plain.texts()) || kept.bytes != plain.bytes {
			t.Fatalf("%d datagrams with %d bytes are kept, want %d with %d",
				len(kept.datagrams), kept.bytes, len(plain.datagrams), plain.bytes)
		}
	}
	var b backlog
	big := make([]byte, 1000)
	b.addSent(slices.Repeat([][]byte{big}, 64))
	if held := b.held(); held > 2*resendLength*len(big) {
		t.Errorf("%d bytes were copied", held)
	}
}

// The loops over real sockets, with all that can be switched off: what comes
// back is what was sent.
func TestUDPGroupsOverRealSockets(t *testing.T) {
	for _, off := range []string{"", "gso", "batch", "engine", "batch,gso,engine"} {
		t.Run("off="+off, func(t *testing.T) {
			noLeaks(t)
			t.Setenv("RELAY_DISABLE", off)
			engine := dgram.NewEngine()
			if _, plain := engine.(dgram.Goroutines); strings.Contains(off, "engine") && !plain {
				t.Fatalf("%T", engine)
			}
			b := newUDPBackend(t, echoDatagram)
			r := newRig(t, []string{b.addr}, withUDP(engine))
			client := new(udpClient)
			for round, sizes := range [][]int{{100, 100, 100, 100}, {1200, 1200, 3}, {0}, {1, 0, 65507, 2, 2}} {
				var want []string
				for i, size := range sizes {
					want = append(want, strings.Repeat(fmt.Sprint(round%10, i%10)[:1], size))
				}
				r.group(1, client, want...)
				client.waitFor(t, want...)
			}
			r.service.Close()
		})
	}
}
