package listen

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"go.uber.org/zap"
)

// What came while the socket's goroutine was busy is delivered client by
// client, each client's datagrams in order and, unless that is switched off,
// in one call.
func TestGroups(t *testing.T) {
	for _, host := range []string{"127.0.0.1", ""} {
		for _, off := range []string{"", "batch"} {
			t.Run("at="+host+"/off="+off, func(t *testing.T) {
				noLeaks(t)
				t.Setenv("RELAY_DISABLE", off)
				testGroups(t, host, off == "")
			})
		}
	}
}

func testGroups(t *testing.T, host string, together bool) {
	s := NewSockets()
	l := openUDP(t, s, freeAddr(t, host))
	dialled := to("127.0.0.1", l.socket.at)
	busy, resume := make(chan struct{}, 1), make(chan struct{})
	stuck := dial(t, "udp", dialled)
	send(t, stuck, "begin")
	first := accepted[*Conn](t, l)
	wantRead(t, first, "begin")
	first.Take(0, func([][]byte) {
		busy <- struct{}{}
		<-resume
	})
	const clients, count = 5, 10
	type group struct {
		client int
		texts  []string
	}
	groups := make(chan group, clients*count)
	near := make([]net.Conn, clients)
	for i := range near {
		near[i] = dial(t, "udp", dialled)
		send(t, near[i], "begin")
		far := accepted[*Conn](t, l)
		wantRead(t, far, "begin")
		far.Take(0, func(datagrams [][]byte) {
			g := group{client: i}
			for _, d := range datagrams {
				g.texts = append(g.texts, string(d))
			}
			groups <- g
		})
	}
	send(t, stuck, "busy")
	receive(t, "the socket's goroutine", busy)
	want := make([][]string, clients)
	for n := range count {
		for i, conn := range near {
			text := fmt.Sprint(i, n)
			if n == 3 {
				text = "" // an empty one has its place too
			}
			send(t, conn, text)
			want[i] = append(want[i], text)
		}
	}
	close(resume)
	got := make([][]string, clients)
	calls := 0
	for total := 0; total < clients*count; calls++ {
		g := receive(t, "a group", groups)
		got[g.client] = append(got[g.client], g.texts...)
		total += len(g.texts)
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %q", got)
	}
	if together != (calls == clients) {
		t.Errorf("%d calls for %d clients", calls, clients)
	}
}

// Answers that go out at once arrive as they were, from the address that the
// client sent to.
func TestReplyGroups(t *testing.T) {
	for _, c := range []struct{ host, client string }{{"127.0.0.1", "127.0.0.1"}, {"0.0.0.0", "127.0.0.7"}, {"", "127.0.0.7"}, {"", "::1"}} {
		for _, off := range []string{"", "gso", "batch", "gso,batch"} {
			t.Run(fmt.Sprintf("%v/off=%s", c, off), func(t *testing.T) {
				noLeaks(t)
				t.Setenv("RELAY_DISABLE", off)
				s := NewSockets()
				l := openUDP(t, s, freeAddr(t, c.host))
				near := dial(t, "udp", to(c.client, l.socket.at)) // hears that address alone
				send(t, near, "begin")
				far := accepted[*Conn](t, l)
				far.Take(0, func([][]byte) {})
				for _, sizes := range [][]int{{1}, {100, 100, 100}, {1200, 1200, 5}, {0, 0}, {5, 9000, 9000, 0, 3}, {65507, 1}} {
					var list [][]byte
					for i, size := range sizes {
						list = append(list, payload(size + i)[i:])
					}
					check(t, far.Reply(list))
					for _, want := range list {
						wantDatagram(t, near, want)
					}
				}
				if err := far.Reply([][]byte{payload(3), payload(65528), payload(4)}); err == nil {
					t.Error("one that is too big was sent")
				}
				wantDatagram(t, near, payload(3))
				wantDatagram(t, near, payload(4))
				far.End()
			})
		}
	}
}

// What costs no memory in good times: a reply, single or many.
func TestReplyAllocations(t *testing.T) {
	noLeaks(t)
	l := openUDP(t, NewSockets(), freeAddr(t, ""))
	near := dial(t, "udp", to("127.0.0.1", l.socket.at))
	send(t, near, "begin")
	far := accepted[*Conn](t, l)
	for _, list := range [][][]byte{{payload(64)}, {payload(64), payload(64)}, {payload(1), payload(2)}} {
		if n := testing.AllocsPerRun(200, func() { _ = far.Reply(list) }); n >= 1 {
			t.Errorf("%d datagrams: %v allocations", len(list), n)
		}
	}
}

// A kernel that gives less than was asked for is told of once, with what to do.
func TestSocketBufferLimits(t *testing.T) {
	noLeaks(t)
	opts, logs := observed()
	u := &udpSocket{at: freeAddr(t, "127.0.0.1")}
	u.tellLimits(opts.Log, socketBuffer, socketBuffer)
	if logs.Len() != 0 {
		t.Errorf("all was given, and yet: %v", logs.All())
	}
	u.tellLimits(opts.Log, 212992, socketBuffer)
	lines := logs.FilterMessage("kernel limits socket buffer").FilterField(zap.Int("got", 212992)).FilterField(zap.Int("wanted", socketBuffer))
	if lines = lines.FilterField(zap.Strings("sysctl", []string{"net.core.rmem_max"})); lines.Len() != 1 {
		t.Errorf("%v", logs.All())
	}
}
