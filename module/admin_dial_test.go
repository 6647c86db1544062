package module_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

type apiTest struct {
	Service, Backend, Error string
	OK                      bool
	Lookup                  float64 `json:"lookup_ms"`
	Dials                   []struct {
		Network, Address, Error string
		OK                      bool
		Latency                 float64 `json:"latency_ms"`
	}
}

func (s *server) test(service, backend string) (v apiTest) {
	s.t.Helper()
	s.must("POST", "services/"+service+"/backends/"+backend+"/test", &v)
	if v.Service != service || v.Backend != backend {
		s.t.Errorf("got %+v", v)
	}
	return v
}

func TestAdminTestsBackends(t *testing.T) {
	live, _ := echoTCP(t, "b")
	dead := freeAddr(t)
	names := startNameServer(t, "127.0.0.1")
	_, port, _ := strings.Cut(live, ":")
	byName := "web.test:" + port
	s := start(t, block("relay+tcp/"+freeAddr(t), fmt.Sprintf("%s %s %s {\n name tested\n resolvers %s\n }", dead, live, byName, names.addr)))
	for backend, ok := range map[string]bool{live: true, byName: true, dead: false} {
		v := s.test("tested", backend)
		if v.OK != ok || v.Error != "" || len(v.Dials) != 1 {
			t.Fatalf("got %+v", v)
		}
		d := v.Dials[0]
		at := backend
		if backend == byName {
			at = live
		}
		if d.Network != "tcp" || d.Address != at || d.OK != ok || d.Latency <= 0 || strings.Contains(d.Error, "refused") == ok {
			t.Errorf("got %+v", d)
		}
	}
	for _, b := range s.service("tested").Backends {
		if b.State != "up" || b.Totals.Failures != 0 || b.Totals.Connections != 0 {
			t.Errorf("a test has counted: %+v", b)
		}
	}
}

// If the backend's name does not resolve, the result has the error of the lookup,
// within the service's timeout.
func TestAdminTestOfAHangingName(t *testing.T) {
	live, _ := echoTCP(t, "b")
	names := startNameServer(t, "") // does not answer
	s := start(t, block("relay+tcp/"+freeAddr(t), fmt.Sprintf("web.test:80 %s {\n name tested\n connect_timeout 100ms\n resolvers %s\n }", live, names.addr)))
	if v := s.test("tested", "web.test:80"); v.OK || !strings.Contains(v.Error, "web.test") || v.Dials == nil || len(v.Dials) != 0 || v.Lookup < 100 || v.Lookup > 4500 { // the default is 5 s
		t.Errorf("got %+v", v)
	}
}

// An SRV backend without targets is tested by its lookup. It has no port, and not the
// port of each client.
func TestAdminTestOfAnSRVBackend(t *testing.T) {
	names := startNameServer(t, "") // does not answer
	s := start(t, block("relay+tcp/"+freeAddr(t), fmt.Sprintf("srv/_a._tcp.test {\n name tested\n connect_timeout 100ms\n resolvers %s\n }", names.addr)))
	var v apiTest
	if s.must("POST", "services/tested/backends/srv%2F_a._tcp.test/test", &v); v.OK || !strings.Contains(v.Error, "lookup _a._tcp.test") {
		t.Errorf("got %+v", v)
	}
	if status, problem, _ := s.send("POST", "test", `{"address": "srv/_a._tcp.test"}`, nil); status != 400 || !strings.Contains(problem, "test one of them") {
		t.Errorf("%d %s", status, problem)
	}
}

// UDP is tested with the payload of the health check. Only an answer passes.
func TestAdminTestsUDP(t *testing.T) {
	live, _ := echoUDP(t, "b", freeAddr(t))
	silent, dead := silentUDP(t), freeAddr(t)
	s := start(t, block("relay+udp/"+freeAddr(t), fmt.Sprintf("%s %s %s {\n name tested\n health_check {\n network udp\n interval 1h\n timeout 1500ms\n send ping\n expect \"b ping\"\n }\n }", live, silent, dead)))
	for backend, problem := range map[string]string{live: "", silent: "timeout", dead: "refused"} {
		v := s.test("tested", backend)
		if len(v.Dials) != 1 || v.Dials[0].Network != "udp" || v.OK != (problem == "") || v.Dials[0].OK != v.OK || !strings.Contains(v.Dials[0].Error, problem) {
			t.Errorf("%s: %+v", backend, v)
		}
	}
}

// A backend that accepts connections but does not answer the health check's
// payload fails the test, as it fails the health check.
func TestAdminTestUsesTheHealthCheck(t *testing.T) {
	live, _ := echoTCP(t, "b")
	hung := listenTCP(t).Addr().String() // the kernel accepts, nothing answers
	other, _ := echoTCP(t, "c")
	dead := freeAddr(t)
	s := start(t, block("relay+tcp/"+freeAddr(t), fmt.Sprintf("%s %s %s %s {\n name tested\n health_check {\n interval 1h\n timeout 1500ms\n send ping\n expect \"b ping\"\n }\n }", live, hung, other, dead)))
	for backend, problem := range map[string]string{live: "", hung: "timeout", other: "timeout", dead: "refused"} {
		v := s.test("tested", backend)
		if len(v.Dials) != 1 || v.Dials[0].Network != "tcp" || v.OK != (problem == "") || v.Dials[0].OK != v.OK || !strings.Contains(v.Dials[0].Error, problem) {
			t.Errorf("%s: %+v", backend, v)
		}
	}
	if _, problems, status := run(t, []string{"CADDY_ADMIN=" + s.admin}, "relay", "test", "tested", hung); status != 1 || !strings.Contains(problems, hung) {
		t.Errorf("caddy relay test: status %d, %s", status, problems)
	}
}

// A service that listens on UDP alone and has no health check has nothing to test.
// With one that sends something, that is tested, on the port of the check.
func TestCommandTestNamesTheCheck(t *testing.T) {
	live, _ := echoUDP(t, "b", freeAddr(t))
	both, _ := echoTCP(t, "c")
	other, _ := echoUDP(t, "other", freeAddr(t))
	_, port, err := net.SplitHostPort(other)
	relaytest.Check(t, err)
	silent, probed, tcp := unique("silent"), unique("probed"), unique("tcp")
	s := start(t, block("relay+udp/"+freeAddr(t), live+" {\n name "+silent+"\n }")+
		block("relay+udp/"+freeAddr(t), fmt.Sprintf("%s {\n name %s\n health_check 1h {\n network udp\n send ping\n port %s\n }\n }", live, probed, port))+
		block("relay+udp/"+freeAddr(t)+" relay+tcp/"+freeAddr(t), fmt.Sprintf("%s {\n name %s\n health_check 1h {\n send ping\n expect \"c ping\"\n }\n }", both, tcp)))
	for _, test := range []struct {
		service, backend string
		want             []string
	}{
		{silent, live, []string{"UDP not tested: health_check has no send\n"}},
		{probed, live, []string{"check: send on port " + port + "\n", "udp  " + other + "  answered after "}},
		{tcp, both, []string{"check: send and expect\n", "tcp  " + both + "  answered after ", "UDP not tested: health_check.network is tcp\n"}},
	} {
		out, problems, status := run(t, []string{"CADDY_ADMIN=" + s.admin}, "relay", "test", test.service, test.backend)
		if status != 0 {
			t.Errorf("%s: status %d, %s", test.service, status, problems)
		}
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: got\n%s\nwant %s", test.service, out, want)
			}
		}
	}
}

// An address that is in no config is tested with a TCP connect, or as a backend of a
// service: with its DNS servers.
func TestAdminTestsAddresses(t *testing.T) {
	live, _ := echoTCP(t, "b")
	names := startNameServer(t, "127.0.0.1")
	_, port, _ := strings.Cut(live, ":")
	byName := "new.test:" + port
	s := start(t, block("relay+tcp/"+freeAddr(t), fmt.Sprintf("%s {\n name tested\n resolvers %s\n }", live, names.addr)))
	for _, tt := range []struct {
		body string
		ok   bool
		want string // part of the response
	}{
		{fmt.Sprintf(`{"address": %q}`, live), true, `"check":"connect"`},
		{fmt.Sprintf(`{"address": %q}`, freeAddr(t)), false, "connection refused"},
		{fmt.Sprintf(`{"address": %q, "service": "tested"}`, byName), true, live},
	} {
		text, err := s.request("/relay/test", "application/json", []byte(tt.body))
		if err != nil || strings.Contains(string(text), `"ok":true,"check"`) != tt.ok || !strings.Contains(string(text), tt.want) {
			t.Errorf("%s: got %s, %v, want %q in it", tt.body, text, err, tt.want)
		}
	}
	for body, want := range map[string]string{
		`{"address": "no port"}`:                         "address",
		`{"address": "127.0.0.1:1", "service": "other"}`: "unknown service",
		`{"adress": "127.0.0.1:1"}`:                      "body must be",
	} {
		text, err := s.request("/relay/test", "application/json", []byte(body))
		if err == nil && !strings.Contains(string(text), want) || err != nil && !strings.Contains(err.Error()+string(text), want) {
			t.Errorf("%s: got %s, %v, want %q", body, text, err, want)
		}
	}
	if order := s.explain("tested").Journal; len(order) != 0 {
		t.Errorf("tests are in the journal: %v", order)
	}
}
