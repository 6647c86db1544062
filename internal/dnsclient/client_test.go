package dnsclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

var bothFamilies = map[string][]string{"a.example.": {"60 A 192.0.2.1", "30 AAAA 2001:db8::1"}}

func TestAddrsAndTTL(t *testing.T) {
	s := startDNS(t, map[string][]string{
		"both.example.":  {"60 A 192.0.2.1", "90 A 192.0.2.2", "45 AAAA 2001:db8::1"},
		"v4.example.":    {"60 A 192.0.2.1"},
		"v6.example.":    {"20 AAAA 2001:db8::1"},
		"alias.example.": {"7 CNAME v4.example.", "60 A 192.0.2.1"},
	})
	c := newClient(t, Both, s)
	for host, want := range map[string]struct {
		addrs []string
		ttl   time.Duration
	}{
		"Both.Example.": {[]string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}, 45 * time.Second},
		"v4.example":    {[]string{"192.0.2.1"}, time.Minute},
		"v6.example":    {[]string{"2001:db8::1"}, 20 * time.Second},
	} {
		if got := wantAddrs(t, c, host, want.addrs...); got.TTL != want.ttl || got.Partial {
			t.Errorf("%s: TTL %v, partial %v, want %v", host, got.TTL, got.Partial, want.ttl)
		}
	}
	if got, err := c.Addrs(limited(t), "localhost"); err != nil || !got.List[0].IsLoopback() || got.TTL != 0 {
		t.Errorf("localhost of the hosts file: %v, error %v", got, err)
	}
}

// Where the system's resolver is libc, which queries the servers of resolv.conf only,
// it is not used for servers of the config.
func TestServersAreNotQueriedByLibc(t *testing.T) {
	if relaytest.InChild(t, "GODEBUG=netdns=cgo") {
		s := startDNS(t, bothFamilies)
		wantAddrs(t, newClient(t, Both, s), "a.example", "192.0.2.1", "2001:db8::1")
	}
}

func TestFamilies(t *testing.T) {
	s := startDNS(t, bothFamilies)
	for families, want := range map[Families][]netip.Addr{
		PreferIPv4: ips("192.0.2.1", "2001:db8::1"),
		PreferIPv6: ips("2001:db8::1", "192.0.2.1"),
		OnlyIPv4:   ips("192.0.2.1"),
		OnlyIPv6:   ips("2001:db8::1"),
	} {
		s.set(func(s *dnsServer) { s.queried = nil })
		got, err := newClient(t, families, s).Addrs(limited(t), "a.example")
		if err != nil || !slices.Equal(got.List, want) || got.Partial {
			t.Errorf("families %d: %v, partial %v, error %v; want %v", families, got.List, got.Partial, err, want)
		}
		queried := map[Families][]string{OnlyIPv4: {"udp A a.example."}, OnlyIPv6: {"udp AAAA a.example."}}[families]
		if queried != nil && !slices.Equal(s.queries(), queried) {
			t.Errorf("families %d: queries %q, want %q", families, s.queries(), queried)
		}
	}
}

// A server that answers for one family and drops or fails the query for the other one
// does not fail the lookup, and delays it by 250 ms only.
func TestOneFamilyWithoutAnswer(t *testing.T) {
	for _, missing := range []uint16{dns.TypeA, dns.TypeAAAA} {
		want := map[uint16]string{dns.TypeA: "2001:db8::1", dns.TypeAAAA: "192.0.2.1"}[missing]
		for name, fault := range map[string]func(s *dnsServer){
			"dropped": func(s *dnsServer) { s.drop = missing },
			"failed":  func(s *dnsServer) { s.fail = missing },
		} {
			t.Run(dns.TypeToString[missing]+" "+name, func(t *testing.T) {
				s := startDNS(t, bothFamilies)
				s.set(fault)
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // shorter than Go's own wait
				defer cancel()
				got, err := newClient(t, Both, s).Addrs(ctx, "a.example")
				if err != nil || !slices.Equal(got.List, ips(want)) || !got.Partial {
					t.Errorf("got %v, partial %v, error %v; want %v", got.List, got.Partial, err, want)
				}
			})
		}
	}
}

// A name that has no address of one family is whole: the server has answered that.
func TestOneFamilyWithoutRecords(t *testing.T) {
	s := startDNS(t, map[string][]string{"a.example.": {"60 A 192.0.2.1"}})
	if got := wantAddrs(t, newClient(t, Both, s), "a.example", "192.0.2.1"); got.Partial {
		t.Error("the answer is partial")
	}
}

func TestNameIsQueriedAsWritten(t *testing.T) {
	s := startDNS(t, bothFamilies)
	c := newClient(t, Both, s)
	for _, host := range []string{"a.example", "a.example."} {
		wantAddrs(t, c, host, "192.0.2.1", "2001:db8::1")
	}
	_, err := c.Addrs(limited(t), "b.example")
	var got *net.DNSError
	if want := (net.DNSError{Err: "no such host", Name: "b.example", Server: s.addr, IsNotFound: true}); !errors.As(err, &got) || *got != want {
		t.Errorf("error %#v, want %#v", err, want)
	}
	want := []string{"udp A a.example.", "udp A b.example.", "udp AAAA a.example.", "udp AAAA b.example."}
	if queried := s.queries(); !slices.Equal(queried, want) {
		t.Errorf("queries %q, want %q", queried, want)
	}
}

func TestTruncatedAnswerIsQueriedOverTCP(t *testing.T) {
	var records, many []string
	for addr := netip.MustParseAddr("192.0.2.0"); len(many) < 200; addr = addr.Next() {
		many, records = append(many, addr.String()), append(records, "60 A "+addr.String())
	}
	s := startDNS(t, map[string][]string{"a.example.": records})
	s.set(func(s *dnsServer) { s.truncate = true })
	wantAddrs(t, newClient(t, Both, s), "a.example", many...)
	want := []string{"tcp A a.example.", "tcp AAAA a.example.", "udp A a.example.", "udp AAAA a.example."}
	if got := s.queries(); !slices.Equal(got, want) {
		t.Errorf("queries %q, want %q", got, want)
	}
}

func TestSecondServer(t *testing.T) {
	for name, fault := range map[string]func(*dnsServer){
		"silent":   func(s *dnsServer) { s.silent = true },
		"servfail": func(s *dnsServer) { s.rcode = dns.RcodeServerFailure },
		"refused":  func(s *dnsServer) { s.rcode = dns.RcodeRefused },
	} {
		t.Run(name, func(t *testing.T) {
			first := startDNS(t, map[string][]string{"a.example.": {"60 A 192.0.2.1"}})
			second := startDNS(t, map[string][]string{"a.example.": {"60 A 192.0.2.2"}})
			first.set(fault)
			wantAddrs(t, newClient(t, Both, first, second), "a.example", "192.0.2.2")
		})
	}
}

func TestNoSuchHostEndsTheLookup(t *testing.T) {
	first := startDNS(t, nil)
	second := startDNS(t, map[string][]string{"a.example.": {"60 A 192.0.2.2"}})
	var err error
	// On a busy machine the first server may take longer than its head start.
	relaytest.Eventually(t, "a lookup that does not query the second server", func() bool {
		second.set(func(s *dnsServer) { s.queried = nil })
		_, err = newClient(t, Both, first, second).Addrs(limited(t), "a.example")
		return len(second.queries()) == 0
	})
	var dnsErr *net.DNSError
	if !errors.As(err, &dnsErr) || !dnsErr.IsNotFound || dnsErr.Server != first.addr {
		t.Errorf("error %v, want no such host from %s", err, first.addr)
	}
}

// The error has one reason for each server, and each server gets each question once:
// Go's resolver would repeat them for each line of resolv.conf.
func TestErrorNamesTheQueriedServers(t *testing.T) {
	first, second := startDNS(t, nil), startDNS(t, nil)
	for _, s := range []*dnsServer{first, second} {
		s.set(func(s *dnsServer) { s.rcode = dns.RcodeServerFailure })
	}
	_, err := newClient(t, Both, first, second).Addrs(limited(t), "a.example")
	if err == nil {
		t.Fatal("no error")
	}
	for _, s := range []*dnsServer{first, second} {
		if n := strings.Count(err.Error(), "on "+s.addr+": server misbehaving: SERVFAIL"); n != 1 {
			t.Errorf("the error has server %s %d times: %v", s.addr, n, err)
		}
		s.set(func(s *dnsServer) {
			if n := len(s.queried); n != 2 {
				t.Errorf("%d queries, want one for A and AAAA each", n)
			}
		})
	}
}

func TestSilentServersEndWithTheContext(t *testing.T) {
	s := startDNS(t, nil)
	s.set(func(s *dnsServer) { s.silent = true })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := newClient(t, Both, s).Addrs(ctx, "a.example"); err == nil {
		t.Errorf("got %v without an answer", got)
	}
}

// A reply to another question, or with another ID, is not taken for the answer.
func TestForgedRepliesAreIgnored(t *testing.T) {
	query := func(id uint16, name string, qtype uint16) []byte {
		m := new(dns.Msg).SetQuestion(name, qtype)
		m.Id = id
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	replyTo := func(b []byte) []byte {
		b = slices.Clone(b)
		b[2] |= responseBit
		return b
	}
	sent := query(1, "a.example.", dns.TypeA)
	for name, test := range map[string]struct {
		msg  []byte
		want bool
	}{
		"reply":      {replyTo(sent), true},
		"case":       {replyTo(query(1, "A.Example.", dns.TypeA)), true},
		"id":         {replyTo(query(2, "a.example.", dns.TypeA)), false},
		"name":       {replyTo(query(1, "b.example.", dns.TypeA)), false},
		"type":       {replyTo(query(1, "a.example.", dns.TypeAAAA)), false},
		"the query":  {sent, false},
		"short":      {replyTo(sent)[:20], false},
		"nothing":    {nil, false},
		"empty name": {replyTo(query(1, ".", dns.TypeA)), false},
	} {
		if got := answers(test.msg, sent); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestTargets(t *testing.T) {
	s := startDNS(t, map[string][]string{
		"_pg._tcp.example.": {
			"30 SRV 20 0 5432 c.example.", "60 SRV 10 5 5432 b.example.", "60 SRV 10 50 5432 A.example.",
			"60 SRV 10 5 5431 b.example.", "60 SRV 10 5 1 aa.example.",
			"60 SRV 1 0 0 no-port.example.",
		},
		"_none._tcp.example.":  {"60 SRV 0 0 0 ."},
		"_zero._tcp.example.":  {"60 SRV 0 0 0 a.example."},
		"_empty._tcp.example.": {},
	})
	c := newClient(t, Both, s)
	var want []Target
	for _, w := range []struct {
		host                   string
		port, priority, weight uint16
	}{{"a", 5432, 10, 50}, {"aa", 1, 10, 5}, {"b", 5431, 10, 5}, {"b", 5432, 10, 5}, {"c", 5432, 20, 0}} {
		want = append(want, Target{w.host + ".example.", w.port, w.priority, w.weight})
	}
	for range 5 { // the order is not random
		got, ttl, err := c.Targets(limited(t), "_pg._tcp.example")
		if err != nil || !slices.Equal(got, want) || ttl != 30*time.Second {
			t.Fatalf("got %v, TTL %v, error %v; want %v", got, ttl, err, want)
		}
	}
	for name, want := range map[string]string{
		"_none._tcp.example":  `lookup _none._tcp.example: the SRV record has the target ".", the service is not available`,
		"_zero._tcp.example":  "lookup _zero._tcp.example: all SRV records have the port 0",
		"_empty._tcp.example": fmt.Sprintf("lookup _empty._tcp.example on %s: no such host", s.addr),
		"_x._tcp.example":     fmt.Sprintf("lookup _x._tcp.example on %s: no such host", s.addr),
	} {
		if got, _, err := c.Targets(limited(t), name); err == nil || err.Error() != want {
			t.Errorf("%s: %v, error %v, want %s", name, got, err, want)
		}
	}
}
