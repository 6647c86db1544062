package handler

import (
	"net/netip"
	"testing"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

func prefixesOf(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func TestClients(t *testing.T) {
	office, guests := prefixesOf("10.0.0.0/8", "2001:db8::/32"), prefixesOf("10.9.0.0/16", "2001:db8:9::/48")
	tests := []struct {
		name        string
		allow, deny []netip.Prefix
		served      []string
		refused     []string
	}{
		{"none", nil, nil, []string{"192.0.2.1", "::1"}, nil},
		{"allow", office, nil, []string{"10.1.1.1", "::ffff:10.1.1.1", "2001:db8::1"}, []string{"192.0.2.1", "::1", "11.0.0.0"}},
		{"deny", nil, guests, []string{"10.1.1.1", "192.0.2.1", "2001:db8::1"}, []string{"10.9.1.1", "::ffff:10.9.1.1", "2001:db8:9::1"}},
		{"both", office, guests, []string{"10.1.1.1", "2001:db8::1"}, []string{"10.9.1.1", "2001:db8:9::1", "192.0.2.1"}},
		{"all denied", office, prefixesOf("0.0.0.0/0", "::/0"), nil, []string{"10.1.1.1", "2001:db8::1"}},
		{"a zone", prefixesOf("fe80::/10"), nil, []string{"fe80::1%eth0"}, []string{"10.1.1.1"}},
	}
	for _, test := range tests {
		clients := NewClients(test.allow, test.deny)
		for _, ip := range test.served {
			if !clients.serves(netip.MustParseAddr(ip)) {
				t.Errorf("%s: %s is refused", test.name, ip)
			}
		}
		for _, ip := range test.refused {
			if clients.serves(netip.MustParseAddr(ip)) {
				t.Errorf("%s: %s is served", test.name, ip)
			}
		}
	}
	if NewClients(office, nil).serves(netip.Addr{}) || !NewClients(nil, guests).serves(netip.Addr{}) {
		t.Error("a client without an address: want it served only without allow")
	}
}

// Clients whose address is not served are refused before they reach a limit or a
// backend. Clients that came before the rule stay.
func TestClientsAreRefusedByAddress(t *testing.T) {
	var lines *observer.ObservedLogs
	r, server := rigOfBoth(t, func(o *Options) { lines, o.MaxConnections = accessLog(o), 2 })
	reload := func(clients *Clients) {
		opts := r.relay.opts
		opts.Clients = clients
		r.relay = New(r.service, opts)
	}
	tcp := r.wantServed(udpKey(1))
	reload(NewClients(nil, prefixesOf("127.0.0.0/8", "::1/128", "198.51.0.0/16")))
	r.wantOverLimit(server, udpKey(2), RefusedDenied)
	r.wantLines("client refused, address not allowed", 2, "client refused, too many connections", 0)
	if last := lines.All()[lines.Len()-1].ContextMap(); last["reason"] != string(stream.RefusedDenied) || last["error"] != errDenied.Error() {
		t.Errorf("the access log has %v", last)
	}
	r.wantAnswered(udpKey(1))

	relaytest.Check(t, tcp.CloseWrite())
	wantEnding(t, "the first client", tcp, "FIN")
	relaytest.Eventually(t, "its end", func() bool { n, _ := r.service.Active(); return n == 0 })
	reload(NewClients(prefixesOf("127.0.0.0/8", "::1/128"), prefixesOf("127.0.0.9/32")))
	client, _ := r.client()
	relaytest.WantRead(t, client, "hello")
}

func BenchmarkClients(b *testing.B) {
	var deny []netip.Prefix
	for i := range 100_000 {
		deny = append(deny, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 0}), 24))
	}
	clients, ip := NewClients(prefixesOf("0.0.0.0/0"), deny), netip.MustParseAddr("203.0.113.7")
	for b.Loop() {
		if !clients.serves(ip) {
			b.Fatal("refused")
		}
	}
}
