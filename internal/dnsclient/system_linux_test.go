package dnsclient

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// startSystemDNS starts a server on port 53 of an address.
func startSystemDNS(t *testing.T, ip string, records map[string][]string) *dnsServer {
	s := &dnsServer{addr: ip + ":53", records: records}
	conn, err := net.ListenPacket("udp", s.addr)
	relaytest.Check(t, err)
	listener, err := net.Listen("tcp", s.addr)
	relaytest.Check(t, err)
	serve(t, &dns.Server{PacketConn: conn, Handler: s})
	serve(t, &dns.Server{Listener: listener, Handler: s})
	return s
}

// Without servers in the config, the files of the machine have their effect, and the
// TTLs are known all the same.
func TestSystemResolver(t *testing.T) {
	etc := lab.InEtc(t)
	if etc == nil {
		return
	}
	s := startSystemDNS(t, "127.0.0.1", map[string][]string{
		"db.example.test.":           {"60 A 192.0.2.1", "30 AAAA 2001:db8::1"},
		"db.example.test.trap.test.": {"60 A 192.0.2.66"},
		"short.trap.test.":           {"20 A 192.0.2.2"},
		"half.trap.test.":            {"60 A 192.0.2.3"},
		"half.other.test.":           {"60 AAAA 2001:db8::66"},
		"_pg._tcp.trap.test.":        {"45 SRV 1 1 5432 db.example.test."},
		"file.test.":                 {"60 A 192.0.2.66"},
	})
	etc.Write(t, "hosts", "127.0.0.1 localhost\n192.0.2.7 file.test alone\n")
	etc.Write(t, "resolv.conf", "nameserver 127.0.0.1\nsearch trap.test other.test\noptions ndots:5\n")
	c := clientOf(t, Config{})
	for host, want := range map[string]struct {
		addrs []string
		ttl   time.Duration
	}{
		"db.example.test.": {[]string{"192.0.2.1", "2001:db8::1"}, 30 * time.Second}, // as written
		"db.example.test":  {[]string{"192.0.2.66"}, 60 * time.Second},               // ndots
		"short":            {[]string{"192.0.2.2"}, 20 * time.Second},                // search
		"half":             {[]string{"192.0.2.3"}, 60 * time.Second},                // families of one host only
		"file.test":        {[]string{"192.0.2.7"}, 0},                               // hosts first
		"file.test.":       {[]string{"192.0.2.7"}, 0},
		"alone":            {[]string{"192.0.2.7"}, 0},
	} {
		if got := wantAddrs(t, c, host, want.addrs...); got.TTL != want.ttl || got.Partial {
			t.Errorf("%s: TTL %v, partial %v, want %v", host, got.TTL, got.Partial, want.ttl)
		}
	}
	targets, ttl, err := c.Targets(limited(t), "_pg._tcp")
	if err != nil || len(targets) != 1 || targets[0].Host != "db.example.test." || ttl != 45*time.Second {
		t.Errorf("targets %v, TTL %v, error %v", targets, ttl, err)
	}

	// The hosts file counts with servers in the config, too, also for names
	// without a dot, and search domains are not.
	own := newClient(t, Both, s)
	wantAddrs(t, own, "alone", "192.0.2.7")
	wantAddrs(t, own, "db.example.test", "192.0.2.1", "2001:db8::1")
	if got, err := own.Addrs(limited(t), "short"); err == nil {
		t.Errorf("got %v by the search list", got.List)
	}

	// One family is answered, and queries for the other one are dropped.
	s.set(func(s *dnsServer) { s.drop = dns.TypeAAAA })
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if got, err := c.Addrs(ctx, "db.example.test."); err != nil || !slices.Equal(got.List, ips("192.0.2.1")) || !got.Partial {
		t.Errorf("AAAA dropped: %v, partial %v, error %v", got.List, got.Partial, err)
	}
}
