package dnsclient

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// dnsServer is a DNS server on one UDP and TCP port of 127.0.0.1, and its faults.
type dnsServer struct {
	addr string

	mu       sync.Mutex
	records  map[string][]string // records by name with trailing dot, as in a zone file without the name
	rcode    int                 // the answer to every query, if not 0
	silent   bool                // no answers at all
	drop     uint16              // type whose queries get no answer
	fail     uint16              // type whose queries get SERVFAIL
	truncate bool                // UDP answers are truncated
	queried  []string            // queries, such as "udp A a.example."
}

// startDNS starts a server. Records are written like "60 A 192.0.2.1".
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
	s.addr = conn.LocalAddr().String()
	serve(t, &dns.Server{PacketConn: conn, Handler: s})
	serve(t, &dns.Server{Listener: listener, Handler: s})
	return s
}

// startTLS starts the server on another port with a certificate, and returns its
// address.
func (s *dnsServer) startTLS(t *testing.T, cert tls.Certificate) (addr string) {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, &dns.Server{Listener: listener, Handler: s})
	return listener.Addr().String()
}

// serve runs a server until the end of the test.
func serve(t *testing.T, server *dns.Server) {
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

func (s *dnsServer) set(change func(s *dnsServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *dnsServer) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	if answer := s.answer(w.LocalAddr().Network(), request); answer != nil {
		_ = w.WriteMsg(answer)
	}
}

func (s *dnsServer) answer(network string, request *dns.Msg) *dns.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	question := request.Question[0]
	s.queried = append(s.queried, network+" "+dns.TypeToString[question.Qtype]+" "+question.Name)
	if s.silent || question.Qtype == s.drop {
		return nil
	}
	reply := new(dns.Msg)
	reply.SetReply(request)
	reply.RecursionAvailable = true
	records, known := s.records[strings.ToLower(question.Name)]
	switch {
	case s.rcode != 0:
		reply.Rcode = s.rcode
	case question.Qtype == s.fail:
		reply.Rcode = dns.RcodeServerFailure
	case !known:
		reply.Rcode = dns.RcodeNameError
	case s.truncate && network == "udp":
		reply.Truncated = true
	default:
		for _, text := range records {
			rr, err := dns.NewRR(question.Name + " " + text)
			if err != nil {
				panic(err)
			}
			if rr.Header().Rrtype == question.Qtype || rr.Header().Rrtype == dns.TypeCNAME {
				reply.Answer = append(reply.Answer, rr)
			}
		}
	}
	return reply
}

// queries returns the queries of the server, sorted and without duplicates.
func (s *dnsServer) queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	queried := slices.Clone(s.queried)
	slices.Sort(queried)
	return slices.Compact(queried)
}

// newClient returns a client of servers on UDP. It is closed at the end of the test.
func newClient(t *testing.T, families Families, servers ...*dnsServer) *Client {
	cfg := Config{Families: families}
	for _, s := range servers {
		cfg.Servers = append(cfg.Servers, Server{Addr: s.addr})
	}
	return clientOf(t, cfg)
}

func clientOf(t *testing.T, cfg Config) *Client {
	c := New(cfg)
	t.Cleanup(c.Close)
	return c
}

// limited returns a context with the time limit that the cache gives a lookup.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// ips parses addresses.
func ips(addrs ...string) (parsed []netip.Addr) {
	for _, addr := range addrs {
		parsed = append(parsed, netip.MustParseAddr(addr))
	}
	return parsed
}

// wantAddrs fails the test unless host has these addresses in any order: Go's resolver
// sorts them depending on the addresses of the machine. It looks host up again while the
// answer is partial: on a busy machine one family may be answered too late.
func wantAddrs(t *testing.T, c *Client, host string, want ...string) Addrs {
	t.Helper()
	var got Addrs
	var err error
	relaytest.Eventually(t, "an answer of both families", func() bool {
		got, err = c.Addrs(limited(t), host)
		return !got.Partial
	})
	sorted := slices.SortedFunc(slices.Values(got.List), netip.Addr.Compare)
	wanted := slices.SortedFunc(slices.Values(ips(want...)), netip.Addr.Compare)
	if err != nil || !slices.Equal(sorted, wanted) {
		t.Fatalf("%s: %v, error %v; want %v", host, got.List, err, want)
	}
	return got
}
