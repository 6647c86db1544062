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

// zone is a DNS server with records that a test changes.
type zone struct {
	addr    string
	mu      sync.Mutex
	records []string // as in a zone file; guarded by mu
	silent  bool     // no answers
	queries int
}

func startZone(t *testing.T, records ...string) *zone {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{addr: pc.LocalAddr().String(), records: records}
	server := &dns.Server{PacketConn: pc, Handler: z}
	go server.ActivateAndServe()
	t.Cleanup(func() { _ = server.Shutdown() })
	return z
}

func (z *zone) set(records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records, z.silent = records, false
}

func (z *zone) fail(silent bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records, z.silent = nil, silent
}

// hold begins or ends to ignore queries. The records stay.
func (z *zone) hold(on bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.silent = on
}

func (z *zone) count() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.queries
}

func (z *zone) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.queries++
	if z.silent {
		return
	}
	q := query.Question[0]
	answer := new(dns.Msg).SetReply(query)
	answer.RecursionAvailable, answer.Rcode = true, dns.RcodeNameError
	for _, record := range z.records {
		rr, err := dns.NewRR(record)
		if err != nil {
			panic(err)
		}
		if !strings.EqualFold(rr.Header().Name, q.Name) {
			continue
		}
		answer.Rcode = dns.RcodeSuccess
		if rr.Header().Rrtype == q.Qtype {
			answer.Answer = append(answer.Answer, rr)
		}
	}
	_ = w.WriteMsg(answer)
}

// srvZone returns the records of an SRV name with targets a.test, b.test and so on, in
// this order of priority, and their addresses 127.0.0.2, 127.0.0.3 and so on.
func srvZone(name string, port int, targets string) (records []string) {
	for i, target := range targets {
		records = append(records, fmt.Sprintf("%s. 1 IN SRV %d 0 %d %c.test.", name, i, port, target))
	}
	for i := range 4 {
		records = append(records, fmt.Sprintf("%c.test. 300 IN A 127.0.0.%d", 'a'+i, 2+i))
	}
	return records
}

// restartable listens at an address and serves its name, until stop.
func restartable(t *testing.T, ip string, port int) (stop func()) {
	_, stop = echoTCPAt(t, ip, fmt.Sprintf("%s:%d", ip, port))
	return stop
}

// The targets of an SRV name are a part of the queue, in the order of DNS. They keep
// their state when others are added, removed and moved, and when the lookup fails.
func TestSRVBackend(t *testing.T) {
	port := freePort(t)
	at, web := freeAddr(t), unique("srv")
	srv := "_db._tcp." + web + ".test"
	stopA := restartable(t, "127.0.0.2", port)
	for _, ip := range []string{"127.0.0.3", "127.0.0.4", "127.0.0.5"} {
		restartable(t, ip, port)
	}
	z := startZone(t, srvZone(srv, port, "ab")...)
	text := func(targets string) (list []string) { // the queue: targets, then the configured one
		for _, target := range targets {
			list = append(list, fmt.Sprintf("%c.test:%d", target, port))
		}
		return append(list, fmt.Sprintf("127.0.0.5:%d", port))
	}
	config := func(more string) string {
		return block("relay+tcp/"+at, fmt.Sprintf("srv/%s 127.0.0.5:%d {\n name %s\n resolvers %s\n dns_ttl record 1s 1s\n %s\n }", srv, port, web, z.addr, more))
	}
	s := start(t, config(""))
	order := func() (list []string) {
		for _, b := range s.service(web).Backends {
			list = append(list, b.Address)
		}
		return list
	}
	awaitOrder := func(want []string) {
		t.Helper()
		relaytest.Eventually(t, fmt.Sprintf("the order %v", want), func() bool { return slices.Equal(order(), want) })
	}
	changes := func() int { return len(s.lines("backends changed")) }
	if got := ask(t, dial(t, "tcp", at), "x"); got != "127.0.0.2 x" { // the first client waits for the targets
		t.Fatalf("got %q", got)
	}
	awaitOrder(text("ab"))

	// a fails and is demoted. Its place is kept when c is added.
	stopA()
	if got := ask(t, dial(t, "tcp", at), "x"); got != "127.0.0.3 x" {
		t.Fatalf("got %q", got)
	}
	demoted := append(text("b"), text("a")[0])
	awaitOrder(demoted)
	z.set(srvZone(srv, port, "abc")...)
	demoted = slices.Concat(text("bc"), text("a")[:1])
	awaitOrder(demoted)
	if b := s.service(web).Backends[3]; b.State != "down" {
		t.Errorf("a is %s after a refresh, want down", b.State)
	}
	relaytest.Eventually(t, "a line for the first answer and one for c", func() bool { return changes() == 2 })

	// A failed lookup changes nothing.
	z.fail(false)
	relaytest.Eventually(t, "the failure to be logged", func() bool { return len(s.lines("lookup failed, keeping old backends")) == 1 })
	awaitOrder(demoted)

	// A reload keeps the targets, also while the DNS fails.
	relaytest.Check(t, s.reload(config("idle_timeout 1m")))
	awaitOrder(demoted)
	if got := ask(t, dial(t, "tcp", at), "x"); got != "127.0.0.3 x" {
		t.Fatalf("got %q", got)
	}
	z.set(srvZone(srv, port, "abc")...)

	// b and c change places, then b leaves. An existing relay stays on b.
	stays := dial(t, "tcp", at)
	ask(t, stays, "x")
	z.set(srvZone(srv, port, "acb")...)
	awaitOrder(slices.Concat(text("cb"), text("a")[:1]))
	z.set(srvZone(srv, port, "ac")...)
	relaytest.Eventually(t, "b to leave the queue", func() bool {
		bs := s.service(web).Backends
		return len(bs) == 4 && bs[3].Address == text("b")[0] && bs[3].State == "removed"
	})
	if got := ask(t, stays, "y"); got != "127.0.0.3 y" {
		t.Errorf("got %q from the removed target", got)
	}
	relaytest.Eventually(t, "four lines", func() bool { return changes() == 4 }) // after the entries of the journal
	var sentences []string
	for _, e := range s.explain(web).Journal {
		if e.Kind == "backends" {
			_, sentence, _ := strings.Cut(e.Sentence, " ")
			sentences = append(sentences, sentence)
		}
	}
	p := fmt.Sprintf(".test:%d", port)
	fallback := fmt.Sprintf("127.0.0.5:%d", port)
	want := []string{
		fmt.Sprintf("backends: targets of srv/%s changed (added a%s, b%s); order a%[2]s, b%[2]s, %[4]s", srv, p, p, fallback),
		fmt.Sprintf("backends: targets of srv/%s changed (added c%s); order b%[2]s, c%[2]s, %s, a%[2]s", srv, p, fallback),
		fmt.Sprintf("backends: targets of srv/%s changed (moved c%s, b%[2]s); order c%[2]s, b%[2]s, %s, a%[2]s", srv, p, fallback),
		fmt.Sprintf("backends: targets of srv/%s changed (removed b%s); order c%[2]s, %s, a%[2]s", srv, p, fallback),
	}
	if !slices.Equal(sentences, want) {
		t.Errorf("journal:\n%s\nwant\n%s", strings.Join(sentences, "\n"), strings.Join(want, "\n"))
	}
	var names []apiName
	s.must("GET", "dns", &names)
	i := slices.IndexFunc(names, func(n apiName) bool { return n.Host == "srv/"+srv })
	if i < 0 || !slices.Equal(names[i].Addresses, text("ac")[:2]) {
		t.Errorf("names %+v", names)
	}
}

// While the targets are unknown, the SRV backend is in the queue itself and fails. A
// client that waits is served when they become known, on TCP and UDP.
func TestSRVBackendWithoutTargets(t *testing.T) {
	port := freePort(t)
	at, web := freeAddr(t), unique("srv")
	srv := "_db._tcp." + web + ".test"
	restartable(t, "127.0.0.2", port)
	echoUDP(t, "127.0.0.2", fmt.Sprintf("127.0.0.2:%d", port))
	z := startZone(t)
	z.fail(true)
	s := start(t, block("relay+tcp/"+at+" relay+udp/"+at, fmt.Sprintf("srv/%s {\n name %s\n resolvers %s\n}", srv, web, z.addr)))
	tcp, udp := dial(t, "tcp", at), dial(t, "udp", at)
	for _, conn := range []net.Conn{tcp, udp} {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	relaytest.Eventually(t, "the queries", func() bool { return z.count() > 0 && active(web) == 2 })
	if b := s.service(web).Backends; len(b) != 1 || b[0].Address != "srv/"+srv {
		t.Errorf("backends %+v", b)
	}
	z.set(srvZone(srv, port, "a")...)
	for _, conn := range []net.Conn{tcp, udp} {
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		if got := string(buf[:n]); err != nil || got != "127.0.0.2 x" {
			t.Errorf("got %q, error %v", got, err)
		}
	}
	if n := len(s.lines("backend failed, first strike")); n != 0 {
		t.Errorf("%d strikes", n)
	}
	if b := s.service(web).Backends; len(b) != 1 || b[0].Address != fmt.Sprintf("a.test:%d", port) {
		t.Errorf("backends %+v", b)
	}
}

// A reload while clients wait for the targets is no failure of the SRV backend. They wait
// for the targets of the new config.
func TestReloadWhileTargetsAreUnknown(t *testing.T) {
	port := freePort(t)
	at, web := freeAddr(t), unique("srv")
	srv := "_db._tcp." + web + ".test"
	restartable(t, "127.0.0.2", port)
	z := startZone(t, srvZone(srv, port, "a")...)
	z.hold(true)
	config := func(more string) string {
		return block("relay+tcp/"+at, fmt.Sprintf("srv/%s {\n name %s\n resolvers %s\n %s\n}", srv, web, z.addr, more))
	}
	s := start(t, config(""))
	conn := dial(t, "tcp", at)
	_, err := conn.Write([]byte("x"))
	relaytest.Check(t, err)
	relaytest.Eventually(t, "a client that waits", func() bool { return z.count() > 0 && active(web) == 1 })
	before := z.count()
	relaytest.Check(t, s.reload(config("idle_timeout 1m")))
	relaytest.Eventually(t, "a query of the new config", func() bool { return z.count() > before })
	z.hold(false)
	buf := make([]byte, 100)
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "127.0.0.2 x" {
		t.Errorf("got %q, error %v", buf[:n], err)
	}
	if n := len(s.lines("backend failed, first strike")); n != 0 {
		t.Errorf("%d strikes", n)
	}
}

// The failure of a target looks the SRV records up at once: with a lifetime of an hour,
// the client that finds the only target dead is the last one that is refused.
func TestFailedTargetRefreshesSRV(t *testing.T) {
	port := freePort(t)
	at, web := freeAddr(t), unique("srv")
	srv := "_db._tcp." + web + ".test"
	stop := restartable(t, "127.0.0.2", port)
	restartable(t, "127.0.0.3", port)
	z := startZone(t, srvZone(srv, port, "a")...)
	start(t, block("relay+tcp/"+at, fmt.Sprintf("srv/%s {\n name %s\n resolvers %s\n}", srv, web, z.addr)))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "127.0.0.2 x" {
		t.Fatalf("got %q", got)
	}
	z.set(srvZone(srv, port, "b")...)
	stop()
	relaytest.Eventually(t, "the new target to serve", func() bool {
		conn := dial(t, "tcp", at)
		defer conn.Close()
		_, _ = conn.Write([]byte("x"))
		buf := make([]byte, 100)
		n, _ := conn.Read(buf)
		return string(buf[:n]) == "127.0.0.3 x"
	})
}
