package listen

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Datagrams that arrived while the reading goroutine was busy are delivered client
// by client, and those of each in order. Unless batching is switched off, all
// datagrams of a client come in one call.
func TestGroups(t *testing.T) {
	for _, host := range []string{"127.0.0.1", ""} {
		for _, off := range []string{"", "batch"} {
			t.Run("at="+host+"/off="+off, func(t *testing.T) {
				relaytest.NoLeaks(t)
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
	first.Take(0, func([][]byte) bool {
		busy <- struct{}{}
		<-resume
		return true
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
		far.Take(0, func(datagrams [][]byte) bool {
			g := group{client: i}
			for _, d := range datagrams {
				g.texts = append(g.texts, string(d))
			}
			groups <- g
			return true
		})
	}
	send(t, stuck, "busy")
	relaytest.Receive(t, "the reading goroutine to be busy", busy)
	want := make([][]string, clients)
	for n := range count {
		for i, conn := range near {
			text := fmt.Sprint(i, n)
			if n == 3 {
				text = "" // empty datagrams are kept in order too
			}
			send(t, conn, text)
			want[i] = append(want[i], text)
		}
	}
	close(resume)
	got := make([][]string, clients)
	calls := 0
	for total := 0; total < clients*count; calls++ {
		g := relaytest.Receive(t, "a group", groups)
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

// Clients that send to a link-local address or to the link's multicast address
// get replies.
func TestLinkLocal(t *testing.T) {
	local, name := linkLocal(t)
	relaytest.NoLeaks(t)
	at := freeAddr(t, "")
	l := openUDP(t, NewSockets(), at)
	near := dial(t, "udp", netip.AddrPortFrom(local.WithZone(name), at.Port()).String())
	send(t, near, "hello")
	far := accepted[*Conn](t, l)
	wantRead(t, far, "hello")
	send(t, far, "answer")
	wantRead(t, near, "answer")
	far.End()

	from, err := net.ListenUDP("udp6", &net.UDPAddr{IP: local.AsSlice(), Zone: name})
	relaytest.Check(t, err)
	defer from.Close()
	_, err = from.WriteToUDPAddrPort([]byte("all"), netip.AddrPortFrom(netip.MustParseAddr("ff02::1").WithZone(name), at.Port()))
	relaytest.Check(t, err)
	far = accepted[*Conn](t, l)
	wantRead(t, far, "all")
	send(t, far, "answer")
	wantRead(t, &unconnected{from}, "answer")
}

// unconnected makes the embedded socket readable as a net.Conn.
type unconnected struct{ *net.UDPConn }

// linkLocal returns a link-local address of this machine and the name of its
// interface.
func linkLocal(t *testing.T) (netip.Addr, string) {
	t.Helper()
	all, err := net.Interfaces()
	relaytest.Check(t, err)
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 {
			continue
		}
		addrs, _ := i.Addrs()
		for _, addr := range addrs {
			if prefix, err := netip.ParsePrefix(addr.String()); err == nil && prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast() {
				return prefix.Addr(), i.Name
			}
		}
	}
	t.Skip("no link-local address")
	panic("unreachable")
}
