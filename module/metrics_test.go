package module_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// backendLabels returns the labels of a backend's series.
func backendLabels(service, network, backend string) string {
	return fmt.Sprintf(`backend=%q,network=%q,service=%q`, backend, network, service)
}

// failuresOf returns the series of failures on TCP.
func failuresOf(service, backend, by string) string {
	return fmt.Sprintf(`failures_total{backend=%q,by=%q,network="tcp",service=%q}`, backend, by, service)
}

// The metrics agree with what the clients sent.
func TestMetricsReconcile(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		name := newName("reconciles")
		backend, _ := echoTCP(t, "b")
		dead, at := freeAddr(t), freeAddr(t)
		s := start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name %q\n }", dead, backend, name)))
		living, gone := backendLabels(name, "tcp", backend), backendLabels(name, "tcp", dead)

		s.shows(map[string]float64{
			"connections_total{" + living + "}":                                                              0,
			`connections_active{` + backendLabels(name, "tcp", "") + `}`:                                     0,
			failuresOf(name, dead, "client"):                                                                 0,
			"backend_up{" + gone + "}":                                                                       1,
			positionOf(name, dead):                                                                           1,
			refusedOf(name, "tcp", "no_backend"):                                                             0,
			refusedOf(name, "udp", "no_backend"):                                                             0,
			fmt.Sprintf(`udp_sessions_evicted_total{service=%q}`, name):                                      0,
			fmt.Sprintf(`dropped_datagrams_total{reason="queue_full",service=%q}`, name):                     0,
			fmt.Sprintf(`dropped_datagrams_total{reason="backlog_limit",service=%q}`, name):                  0,
			`datagrams_total{backend="` + backend + `",direction="up",network="udp",service="` + name + `"}`: 0,
		})

		const clients = 5
		var conns []net.Conn
		for range clients {
			conn := dial(t, "tcp", at)
			for range 3 {
				if got := ask(t, conn, "hello"); got != "b hello" {
					t.Fatalf("got %q", got)
				}
			}
			conns = append(conns, conn)
		}
		traffic := func(active float64) map[string]float64 {
			return map[string]float64{
				"connections_active{" + living + "}":                         active,
				"connections_active{" + gone + "}":                           0,
				`connections_active{` + backendLabels(name, "tcp", "") + `}`: 0,
				"connections_total{" + living + "}":                          clients,
				"connections_total{" + gone + "}":                            0,
				bytesOf(name, backend, "up"):                                 clients * 3 * float64(len("hello")),
				bytesOf(name, backend, "down"):                               clients * 3 * float64(len("b hello")),
				"connect_duration_seconds_count{" + living + "}":             clients,
				`connect_duration_seconds_bucket{` + living + `,le="+Inf"}`:  clients,
				failuresOf(name, dead, "client"):                             2,
				failuresOf(name, dead, "check"):                              0,
				failuresOf(name, dead, "local"):                              0,
				failuresOf(name, backend, "client"):                          0,
				"demotions_total{" + gone + "}":                              1,
				"backend_up{" + gone + "}":                                   0,
				"backend_up{" + living + "}":                                 1,
				"backend_up{" + backendLabels(name, "udp", dead) + "}":       1,
				positionOf(name, dead):                                       2,
				positionOf(name, backend):                                    1,
				refusedOf(name, "tcp", "no_backend"):                         0,
			}
		}
		s.shows(traffic(clients))
		during := s.scrape()
		if sum := during[metricPrefix+"connect_duration_seconds_sum{"+living+"}"]; sum <= 0 || sum > relaytest.Limit.Seconds() {
			t.Errorf("connecting took %v seconds", sum)
		}
		if below := during[metricPrefix+"connect_duration_seconds_bucket{"+living+`,le="10"}`]; below != clients {
			t.Errorf("%v of %d connects in 10 s", below, clients)
		}
		for _, conn := range conns {
			conn.Close()
		}
		s.shows(traffic(0))
	})
}

// positionOf, refusedOf and bytesOf return the name of a series.

func positionOf(service, backend string) string {
	return fmt.Sprintf(`backend_position{backend=%q,service=%q}`, backend, service)
}

func refusedOf(service, network, reason string) string {
	return fmt.Sprintf(`refused_total{network=%q,reason=%q,service=%q}`, network, reason, service)
}

func bytesOf(service, backend, direction string) string {
	return fmt.Sprintf(`bytes_total{backend=%q,direction=%q,network="tcp",service=%q}`, backend, direction, service)
}

// refusal checks that a client is refused. It dials only once: the reset may come
// before Dial returns.
func refusal(t *testing.T, at string) {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatalf("a client that had to be refused got %d bytes", n)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("a client that had to be refused was left to wait")
	}
}

// Refused clients are counted by service and reason.
func TestMetricsOfRefusals(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	one, two, three := freeAddr(t), freeAddr(t), freeAddr(t)
	refuses, full, oneEach := newName("refuses"), newName("full"), newName("one-each")
	s := start(t, block("TCP/"+one, freeAddr(t)+" {\n name "+refuses+"\n }")+
		block("TCP/"+two, backend+" {\n name "+full+"\n max_connections 1\n }")+
		block("TCP/"+three, backend+" {\n name "+oneEach+"\n max_connections_per_ip 1\n }"))
	for _, at := range []string{two, three} {
		if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
			t.Fatalf("got %q", got)
		}
		for range 3 {
			refusal(t, at)
		}
	}
	for range 4 {
		refusal(t, one)
	}
	s.shows(map[string]float64{
		refusedOf(refuses, "tcp", "no_backend"):             4,
		refusedOf(refuses, "tcp", "max_connections"):        0,
		refusedOf(full, "tcp", "max_connections"):           3,
		refusedOf(full, "tcp", "no_backend"):                0,
		refusedOf(oneEach, "tcp", "max_connections_per_ip"): 3,
		refusedOf(oneEach, "tcp", "max_connections"):        0,
	})
}

// Lost datagrams are counted by reason.
func TestMetricsOfLostDatagrams(t *testing.T) {
	backend, _ := echoUDP(t, "b", freeAddr(t))
	silent, err := net.ListenPacket("udp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	one, two := freeAddr(t), freeAddr(t)
	refuses, full := newName("refuses"), newName("full")
	s := start(t, block("UDP/"+one, silent.LocalAddr().String()+" {\n name "+refuses+"\n udp_reply_timeout 20ms\n }")+
		block("UDP/"+two, backend+" {\n name "+full+"\n max_udp_sessions 1\n }"))

	conn := dial(t, "udp", one)
	relaytest.Eventually(t, "the client to be refused and its next datagram to be dropped", func() bool {
		_, _ = conn.Write([]byte("x"))
		got := s.scrape()
		return got[metricPrefix+refusedOf(refuses, "udp", "no_backend")] > 0 &&
			got[fmt.Sprintf(`%sdropped_datagrams_total{reason="refused",service=%q}`, metricPrefix, refuses)] > 0
	})
	for i := range 3 {
		if got := keepAsking(t, dial(t, "udp", two), "x"); got != "b x" {
			t.Fatalf("client %d: got %q", i, got)
		}
	}
	s.shows(map[string]float64{fmt.Sprintf("udp_sessions_evicted_total{service=%q}", full): 2})
}

// A client that waits for a backend counts as active.
func TestMetricsOfWaitingClients(t *testing.T) {
	names := startNameServer(t, "") // does not answer, so the lookup lasts until the timeout
	at, name := freeAddr(t), newName("searches")
	s := start(t, block("TCP/"+at, fmt.Sprintf("web.test:80 {\n name %s\n resolvers %s\n connect_timeout 1m\n }", name, names.addr)))
	dial(t, "tcp", at)
	searching := "connections_active{" + backendLabels(name, "tcp", "") + "}"
	s.shows(map[string]float64{searching: 1})
}

// DNS queries are counted by result. The counters are those of the process, so the
// test checks differences.
func TestMetricsOfLookups(t *testing.T) {
	port := freePort(t)
	backendAt(t, "127.0.0.3", port)
	names := startNameServer(t, "127.0.0.3")
	at := freeAddr(t)
	s := start(t, block("TCP/"+at, fmt.Sprintf("web.test:%d {\n name looks-up\n resolvers %s\n dns_ttl 1s\n }", port, names.addr)))
	result := func(s scrape, result string) float64 {
		return s[fmt.Sprintf(`%sdns_lookups_total{result=%q}`, metricPrefix, result)]
	}
	before := s.scrape()
	if got := hello(t, at); got != "127.0.0.3" {
		t.Fatalf("got %q", got)
	}
	if ok := result(s.scrape(), "ok"); ok <= result(before, "ok") {
		t.Errorf("%v good queries after one, %v before it", ok, result(before, "ok"))
	}
	names.set("127.0.0.0/8") // no address: an empty answer
	relaytest.Eventually(t, "old addresses to be kept", func() bool { return result(s.scrape(), "stale") > result(before, "stale") })
	s.mustReload(block("TCP/"+at, fmt.Sprintf("other.test:%d {\n name looks-up\n resolvers %s\n }", port, names.addr)))
	refusal(t, at)
	if failed := result(s.scrape(), "failed"); failed <= result(before, "failed") {
		t.Errorf("%v failed queries after one, %v before it", failed, result(before, "failed"))
	}
}

// Exports of many services, of two services with one name, and of a name with
// special characters.
func TestMetricsOfManyServices(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	dead, one, two := freeAddr(t), freeAddr(t), freeAddr(t)
	odd := "a \\ name = é and 日本"
	var blocks strings.Builder
	for _, at := range []string{one, two} { // unnamed: two services of one name
		fmt.Fprint(&blocks, block("TCP/"+at, fmt.Sprintf("%s %s {\n idle_timeout %dm\n }", dead, backend, len(blocks.String())+1)))
	}
	fmt.Fprint(&blocks, block("TCP/"+freeAddr(t), fmt.Sprintf("%s {\n name `%s`\n }", backend, odd)))
	many := newName("many")
	for i := range 60 {
		fmt.Fprint(&blocks, block("TCP/"+freeAddr(t), fmt.Sprintf("%s %s {\n name %s-%d\n }", dead, backend, many, i)))
	}
	s := start(t, blocks.String())
	both := dead + "," + backend
	for range 2 {
		if got := ask(t, dial(t, "tcp", one), "x"); got != "b x" {
			t.Fatalf("got %q", got)
		}
	}
	s.shows(map[string]float64{
		"connections_total{" + backendLabels(both, "tcp", backend) + "}":  2,
		"connections_active{" + backendLabels(both, "tcp", backend) + "}": 2,
		"backend_up{" + backendLabels(both, "tcp", dead) + "}":            0, // it is up for the second service
		positionOf(both, dead):    2,
		positionOf(both, backend): 2,
	})
	if got := ask(t, dial(t, "tcp", two), "x"); got != "b x" {
		t.Fatalf("got %q", got)
	}
	s.shows(map[string]float64{"connections_total{" + backendLabels(both, "tcp", backend) + "}": 3})
	now := s.scrape()
	for i := range 60 {
		if len(now.of("service", fmt.Sprintf("%s-%d", many, i))) == 0 {
			t.Errorf("service %s-%d is not shown", many, i)
		}
	}
	oddest := strings.NewReplacer(`\`, `\\`).Replace(odd)
	if _, ok := now[fmt.Sprintf(`%sbackend_position{backend="%s",service="%s"}`, metricPrefix, backend, oddest)]; !ok {
		t.Errorf("no service %s among %v", oddest, now.of("backend", backend))
	}
}
