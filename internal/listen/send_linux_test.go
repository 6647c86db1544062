package listen

import (
	"fmt"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Replies that are sent together arrive unchanged, from the address that the client
// sent to.
func TestReplyGroups(t *testing.T) {
	for _, c := range []struct{ host, client string }{{"127.0.0.1", "127.0.0.1"}, {"0.0.0.0", "127.0.0.7"}, {"", "127.0.0.7"}, {"", "::1"}} {
		for _, off := range []string{"", "gso", "batch", "gso,batch"} {
			t.Run(fmt.Sprintf("%v/off=%s", c, off), func(t *testing.T) {
				relaytest.NoLeaks(t)
				t.Setenv("RELAY_DISABLE", off)
				s := NewSockets()
				l := openUDP(t, s, freeAddr(t, c.host))
				near := dial(t, "udp", to(c.client, l.socket.at)) // receives from that address only
				send(t, near, "begin")
				far := accepted[*Conn](t, l)
				far.Take(0, each(func([]byte) {}))
				for _, sizes := range [][]int{{1}, {100, 100, 100}, {1200, 1200, 5}, {0, 0}, {5, 9000, 9000, 0, 3}, {65507, 1}} {
					var list [][]byte
					for i, size := range sizes {
						list = append(list, payload(size + i)[i:])
					}
					relaytest.Check(t, far.Reply(list))
					for _, want := range list {
						wantDatagram(t, near, want)
					}
				}
				if err := far.Reply([][]byte{payload(3), payload(65528), payload(4)}); err == nil {
					t.Error("no error for a datagram that is too big")
				}
				wantDatagram(t, near, payload(3))
				wantDatagram(t, near, payload(4))
				far.End()
			})
		}
	}
}

// Replies do not allocate.
func TestReplyAllocations(t *testing.T) {
	relaytest.NoLeaks(t)
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
