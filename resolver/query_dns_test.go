// These tests run with libc as the system's resolver, whatever the host's configuration is. It does
// not query the servers of a Config, so they must be queried without it.
//go:debug netdns=cgo

package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/miekg/dns"
)

// dnsServer is a DNS server on one UDP and TCP port of 127.0.0.1.
type dnsServer struct {
	addr netip.AddrPort

	mu       sync.Mutex
	records  map[string][]string // addresses by name with trailing dot
	rcode    int                 // the answer to every query, if not 0
	silent   bool                // no answers at all
	truncate bool                // UDP answers are truncated
	queried  []string            // queries, such as "udp A a.example."
}

func startDNS(t *testing.T, records map[string][]string) *dnsServer {
	s := &dnsServer{records: records}
	// A port that is free on UDP may be in use on TCP, so try several.
	var conn net.PacketConn
	var listener net.Listener
	for try := 0; ; try++ {
		var err error
		if conn, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if listener, err = net.Listen("tcp", conn.LocalAddr().String()); err == nil {
			break
		}
		conn.Close()
		if try == 20 {
			t.Fatal(err)
		}
	}
	s.addr = netip.MustParseAddrPort(conn.LocalAddr().String())
	for _, server := range []*dns.Server{{PacketConn: conn, Handler: s}, {Listener: listener, Handler: s}} {
		started, done := make(chan struct{}), make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			_ = server.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			_ = server.Shutdown()
			<-done
		})
	}
	return s
}

func (s *dnsServer) set(change func(s *dnsServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *dnsServer) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	question := request.Question[0]
	network := w.LocalAddr().Network()
	s.queried = append(s.queried, network+" "+dns.TypeToString[question.Qtype]+" "+question.Name)
	if s.silent {
		return
	}
	reply := new(dns.Msg)
	reply.SetReply(request)
	addrs, known := s.records[question.Name]
	switch {
	case s.rcode != 0:
		reply.Rcode = s.rcode
	case !known:
		reply.Rcode = dns.RcodeNameError
	case s.truncate && network == "udp":
		reply.Truncated = true
	default:
		for _, addr := range ips(addrs...) {
			header := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Rrtype: dns.TypeA, Ttl: 1}
			if addr.Is6() {
				header.Rrtype = dns.TypeAAAA
			}
			switch {
			case header.Rrtype != question.Qtype:
			case addr.Is4():
				reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: addr.AsSlice()})
			default:
				reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
			}
		}
	}
	_ = w.WriteMsg(reply)
}

// queries returns the queries of the server, sorted and without duplicates.
func (s *dnsServer) queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	queried := slices.Clone(s.queried)
	slices.Sort(queried)
	return slices.Compact(queried)
}

// cacheOf returns a Cache that queries the servers with the given head start.
func cacheOf(t *testing.T, headStart time.Duration, servers ...*dnsServer) *Cache {
	var addrs []netip.AddrPort
	for _, s := range servers {
		addrs = append(addrs, s.addr)
	}
	list := newServerList(addrs)
	list.headStart = headStart
	c := New(Config{Lookup: list.lookup})
	t.Cleanup(c.Close)
	return c
}

// wantSet fails the test unless host has these addresses in any order. Go's resolver sorts them
// depending on the addresses of the machine.
func wantSet(t *testing.T, c *Cache, host string, addrs ...string) {
	t.Helper()
	answer, err := c.Lookup(t.Context(), host, patience)
	if err != nil || answer.Stale || !sameSet(answer.Addrs, ips(addrs...)) {
		t.Fatalf("answer %v, stale %v, error %v; want %v", answer.Addrs, answer.Stale, err, addrs)
	}
}

func TestServerReturnsBothFamilies(t *testing.T) {
	s := startDNS(t, map[string][]string{
		"both.example.": {"192.0.2.1", "192.0.2.2", "2001:db8::1"},
		"v4.example.":   {"192.0.2.1"},
		"v6.example.":   {"2001:db8::1"},
	})
	c := New(Config{Servers: []netip.AddrPort{s.addr}})
	defer c.Close()
	wantSet(t, c, "Both.Example.", "192.0.2.1", "192.0.2.2", "2001:db8::1")
	wantSet(t, c, "v4.example", "192.0.2.1")
	wantSet(t, c, "v6.example", "2001:db8::1")
}

func TestNameIsQueriedAsWritten(t *testing.T) {
	server := netip.MustParseAddrPort("192.0.2.53:53")
	lookup := asWritten(server, func(_ context.Context, network, host string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: network + " " + host, Name: host, Server: "the system's"}
	})
	_, err := lookup(t.Context(), "a.example")
	want := net.DNSError{Err: "ip a.example.", Name: "a.example", Server: "192.0.2.53:53"}
	var got *net.DNSError
	if !errors.As(err, &got) || *got != want {
		t.Errorf("error %#v, want %#v: the trailing dot disables search domains", err, want)
	}
}

func TestTruncatedAnswerIsQueriedOverTCP(t *testing.T) {
	var many []string
	for addr := netip.MustParseAddr("192.0.2.0"); len(many) < 200; addr = addr.Next() {
		many = append(many, addr.String())
	}
	s := startDNS(t, map[string][]string{"a.example.": many})
	s.set(func(s *dnsServer) { s.truncate = true })
	list := newServerList([]netip.AddrPort{s.addr})
	list.headStart = time.Hour
	if got, err := list.lookup(t.Context(), "a.example"); err != nil || !sameSet(got, ips(many...)) {
		t.Errorf("got %v, error %v, want %v", got, err, many)
	}
	want := []string{"tcp A a.example.", "tcp AAAA a.example.", "udp A a.example.", "udp AAAA a.example."}
	if got := s.queries(); !slices.Equal(got, want) {
		t.Errorf("queries %q, want %q", got, want)
	}
}

func TestSecondServer(t *testing.T) {
	for name, test := range map[string]struct {
		headStart time.Duration
		fault     func(*dnsServer)
	}{
		"silent":   {time.Millisecond, func(s *dnsServer) { s.silent = true }},
		"servfail": {time.Hour, func(s *dnsServer) { s.rcode = dns.RcodeServerFailure }},
		"refused":  {time.Hour, func(s *dnsServer) { s.rcode = dns.RcodeRefused }},
	} {
		t.Run(name, func(t *testing.T) {
			first := startDNS(t, map[string][]string{"a.example.": {"192.0.2.1"}})
			second := startDNS(t, map[string][]string{"a.example.": {"192.0.2.2"}})
			first.set(test.fault)
			wantSet(t, cacheOf(t, test.headStart, first, second), "a.example", "192.0.2.2")
		})
	}
}

func TestNoSuchHostEndsTheLookup(t *testing.T) {
	first := startDNS(t, nil)
	second := startDNS(t, map[string][]string{"a.example.": {"192.0.2.2"}})
	_, err := cacheOf(t, time.Hour, first, second).Lookup(t.Context(), "a.example", patience)
	if want := "lookup a.example: no such host (from " + first.addr.String() + ")"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if queried := second.queries(); len(queried) > 0 {
		t.Errorf("the second server was queried: %q", queried)
	}
}

func TestErrorNamesTheQueriedServers(t *testing.T) {
	first, second := startDNS(t, nil), startDNS(t, nil)
	for _, s := range []*dnsServer{first, second} {
		s.set(func(s *dnsServer) { s.rcode = dns.RcodeServerFailure })
	}
	_, err := cacheOf(t, time.Hour, first, second).Lookup(t.Context(), "a.example", patience)
	if err == nil {
		t.Fatal("no error")
	}
	for _, s := range []*dnsServer{first, second} {
		if want := "server misbehaving (from " + s.addr.String() + ")"; !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not contain %q", err, want)
		}
	}
}

func TestChangedRecord(t *testing.T) {
	s := startDNS(t, map[string][]string{"a.example.": {"192.0.2.1"}})
	c := cacheOf(t, time.Hour, s)
	wantSet(t, c, "a.example", "192.0.2.1")
	s.set(func(s *dnsServer) { s.records["a.example."] = []string{"192.0.2.2"} })
	wantSet(t, c, "a.example", "192.0.2.1")
	answer, err := c.Refresh(t.Context(), "a.example", time.Now(), time.Hour)
	wantAnswer(t, answer, err, false, "192.0.2.2")
	wantSet(t, c, "a.example", "192.0.2.2")
}

func TestConnectionIsClosedWithTheLookup(t *testing.T) {
	s := startDNS(t, nil)
	for _, network := range []string{"udp", "tcp"} {
		ctx, cancel := context.WithCancel(t.Context())
		conn, err := dialTo(s.addr)(ctx, network, "192.0.2.53:53")
		relaytest.Check(t, err)
		_ = conn.SetReadDeadline(time.Now().Add(relaytest.Limit)) // reached only on failure
		cancel()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: read returned %v, want %v", network, err, net.ErrClosed)
		}
	}
}

func TestSystemResolver(t *testing.T) {
	c := New(Config{})
	defer c.Close()
	answer, err := c.Lookup(t.Context(), "localhost", patience)
	if err != nil || !answer.Addrs[0].IsLoopback() {
		t.Errorf("localhost: %v, %v", answer, err)
	}
}
