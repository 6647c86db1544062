package module_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// nameServer is a DNS server that gives the same answer to all queries. The
// answer can be changed.
type nameServer struct {
	addr string
	mu   sync.Mutex
	ip   string // one address or several with blanks between them; guarded by mu; "": the server does not answer
}

func startNameServer(t *testing.T, ip string) *nameServer {
	t.Helper()
	pc, err := net.ListenPacket("udp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{addr: pc.LocalAddr().String(), ip: ip}
	server := &dns.Server{PacketConn: pc, Handler: s}
	go server.ActivateAndServe()
	t.Cleanup(func() { _ = server.Shutdown() })
	return s
}

func (s *nameServer) set(ip string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ip = ip
}

func (s *nameServer) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	s.mu.Lock()
	ip := s.ip
	s.mu.Unlock()
	if ip == "" {
		return
	}
	answer := new(dns.Msg).SetReply(query)
	if q := query.Question[0]; q.Qtype == dns.TypeA {
		for _, one := range strings.Fields(ip) {
			answer.Answer = append(answer.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(one)})
		}
	}
	answer.Compress = true
	_ = w.WriteMsg(answer)
}

func backendAt(t *testing.T, ip string, port int) {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, port))
	if err != nil {
		t.Skipf("no address %s on this system: %v", ip, err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(ip))
			conn.Close()
		}
	}()
}

func hello(t *testing.T, at string) string {
	t.Helper()
	buf := make([]byte, 100)
	n, err := dial(t, "tcp", at).Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// When the address of a name changes, the client that finds the old address dead
// is served by the new one. The new address stays in use when DNS then fails.
func TestAddressChange(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		port := freePort(t)
		backendAt(t, "127.0.0.3", port)
		names := startNameServer(t, "127.0.0.2") // nothing listens there
		at := freeAddr(t)
		s := start(t, block("TCP/"+at, fmt.Sprintf("web.test:%d {\n name web\n resolvers %s\n }", port, names.addr)))

		conn := dial(t, "tcp", at) // refused; the address is cached now
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatalf("read %d bytes from a dead backend", n)
		}
		names.set("127.0.0.3")
		relaytest.Eventually(t, "the backend to be found at its new address", func() bool {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				return false
			}
			defer conn.Close()
			buf := make([]byte, 100)
			n, _ := conn.Read(buf)
			return string(buf[:n]) == "127.0.0.3"
		})
		relaytest.Eventually(t, "the change to be logged", func() bool { return len(s.lines("addresses changed")) == 1 })
		names.set("") // DNS hangs: the cached address stays in use
		for range 3 {
			if got := hello(t, at); got != "127.0.0.3" {
				t.Errorf("got %q", got)
			}
		}
	})
}

func TestAddressChangeOfAServingBackend(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		port := freePort(t)
		first, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", port))
		if err != nil {
			t.Skip("no address 127.0.0.2 on this system: ", err)
		}
		go func() {
			for {
				conn, err := first.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("127.0.0.2"))
				conn.Close()
			}
		}()
		backendAt(t, "127.0.0.3", port)
		names := startNameServer(t, "127.0.0.2")
		at := freeAddr(t)
		s := start(t, block("TCP/"+at, fmt.Sprintf("web.test:%d {\n name web\n resolvers %s\n }", port, names.addr)))
		if got := hello(t, at); got != "127.0.0.2" {
			t.Fatalf("got %q", got)
		}
		first.Close()
		names.set("127.0.0.3")
		if got := hello(t, at); got != "127.0.0.3" { // the same client, not the next one
			t.Errorf("got %q", got)
		}
		if first, second := len(s.lines("backend failed, first strike")), len(s.lines("backend failed, second strike")); first != 1 || second != 0 {
			t.Errorf("%d first and %d second strikes, want 1 and 0", first, second)
		}
		// Logged in parallel with the answer, not before it.
		relaytest.Eventually(t, "the first answer to be logged", func() bool { return len(s.lines("name resolved")) == 1 })
	})
}

// Of the addresses of a name, at most 32 are tried for a client, and none that no
// backend can have. One line reports what is left out.
func TestAddressesAreBounded(t *testing.T) {
	addrs := "0.0.0.0 224.0.0.1"
	for i := range 60 { // as many as fit into a datagram
		addrs += fmt.Sprintf(" 127.8.0.%d", i+1)
	}
	names := startNameServer(t, addrs)
	at := freeAddr(t)
	s := start(t, block("relay+tcp/"+at, fmt.Sprintf("many.test:%d {\n name many\n resolvers %s\n }", freePort(t), names.addr)))
	for range 2 {
		if n, err := dial(t, "tcp", at).Read(make([]byte, 1)); err == nil {
			t.Fatalf("read %d bytes from a dead backend", n)
		}
	}
	relaytest.Eventually(t, "both clients to be logged", func() bool { return len(s.lines("client refused")) > 0 })
	for _, line := range s.lines("backend failed, first strike") {
		tried := strings.Split(line["error"].(string), "; ")
		if len(tried) != 32 {
			t.Errorf("tried %d addresses, want 32: %v", len(tried), tried)
		}
		for _, text := range tried {
			if !strings.Contains(text, "127.8.0.") {
				t.Errorf("tried another address: %s", text)
			}
		}
	}
	ignored := s.lines("addresses ignored")
	if len(ignored) != 1 {
		t.Fatalf("lines about ignored addresses: %v, want one", ignored)
	}
	unusable, _ := ignored[0]["unusable"].([]any) // in the order of the system's resolver
	if len(unusable) != 2 || !slices.Contains(unusable, any("0.0.0.0")) || !slices.Contains(unusable, any("224.0.0.1")) || ignored[0]["surplus"] != 28.0 {
		t.Errorf("the line is %v", ignored[0])
	}
}
