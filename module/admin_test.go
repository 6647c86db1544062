package module_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// These types decode the parts of responses that the tests check. They spell out
// the JSON names on their own, so that a renamed field fails a test.
type (
	apiService struct {
		Name     string
		Policy   string
		Removed  bool
		Backends []apiBackend
		Active   struct{ TCP, UDP int }
		Totals   apiTotals
		Refused  map[string]int
	}
	apiBackend struct {
		Address    string
		Position   int
		Configured int `json:"configured_position"`
		State      string
		Strikes    int
		Cooling    time.Time `json:"cooling_until"`
		Networks   map[string]struct {
			State   string
			Strikes int
		}
		Addresses []string
		Active    struct{ TCP, UDP int }
		Totals    apiTotals
		Failure   *struct {
			At             time.Time
			Error, Address string
		} `json:"last_failure"`
		Connect struct{ P50, P99 float64 } `json:"connect_ms"`
	}
	apiTotals struct {
		Connections, Failures, Demotions int
		BytesUp                          int `json:"bytes_up"`
		BytesDown                        int `json:"bytes_down"`
	}
)

// ask makes a request to the admin API below /relay/. answer may be nil.
func (s *server) ask(method, path string, answer any) (status int, problem string, header http.Header) {
	s.t.Helper()
	return s.send(method, path, "", answer)
}

// send is ask with a body.
func (s *server) send(method, path, body string, answer any) (status int, problem string, header http.Header) {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: relaytest.Limit}
	var response *http.Response
	var text []byte
	var err error
	for range 20 { // a reload may reset the request, see server.request; an upgrade may leave it to the old process
		request, bad := http.NewRequest(method, "http://"+s.admin+"/relay/"+path, strings.NewReader(body))
		if bad != nil {
			s.t.Fatal(bad)
		}
		if response, err = client.Do(request); err != nil {
			continue
		}
		text, err = io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && !strings.Contains(string(text), "was replaced by another one") {
			break
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		s.t.Errorf("%s %s: content type %q", method, path, got)
	}
	if response.StatusCode == http.StatusOK {
		if answer != nil {
			if err := json.Unmarshal(text, answer); err != nil {
				s.t.Fatalf("%s: %v", text, err)
			}
		}
		return response.StatusCode, "", response.Header
	}
	var said struct{ Error string }
	if err := json.Unmarshal(text, &said); err != nil || said.Error == "" {
		s.t.Errorf("%s %s: no error in %s", method, path, text)
	}
	return response.StatusCode, said.Error, response.Header
}

// must is ask for requests that must succeed.
func (s *server) must(method, path string, answer any) {
	s.t.Helper()
	if status, problem, _ := s.ask(method, path, answer); status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", method, path, status, problem)
	}
}

// mustSend is must with a body.
func (s *server) mustSend(method, path, body string, answer any) {
	s.t.Helper()
	if status, problem, _ := s.send(method, path, body, answer); status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", method, path, status, problem)
	}
}

func (s *server) service(name string) (v apiService) {
	s.t.Helper()
	s.must("GET", "services/"+url.PathEscape(name), &v)
	return v
}

// unique returns a name that no other service of this process had. A service of
// another test that has not quite ended would keep its journal.
func unique(name string) string { return fmt.Sprintf("%s-%d", name, lastUnique.Add(1)) }

var lastUnique atomic.Int64

// listed returns the services with these names, in the order of the API's list.
// That list also has services of other tests that still have relays.
func (s *server) listed(names ...string) (found []apiService) {
	s.t.Helper()
	var all []apiService
	s.must("GET", "services", &all)
	return slices.DeleteFunc(all, func(v apiService) bool { return !slices.Contains(names, v.Name) })
}

func order(v apiService) (addresses []string) {
	for _, b := range v.Backends {
		addresses = append(addresses, b.Address)
	}
	return addresses
}

func TestAdminShowsServices(t *testing.T) {
	live, _ := echoTCP(t, "b")
	dead, at, shown, another := freeAddr(t), freeAddr(t), unique("shown"), unique("another")
	s := start(t, bothAt(at, dead+" "+live+" {\n name "+shown+"\n cooldown 1h\n }")+
		block("relay+tcp/"+freeAddr(t), live+" {\n name "+another+"\n }"))
	conn := dial(t, "tcp", at)
	if got := ask(t, conn, "12345"); got != "b 12345" {
		t.Fatalf("got %q", got)
	}
	if all := s.listed(shown, another); len(all) != 2 || all[0].Name != another || all[1].Name != shown {
		t.Fatalf("got %v", all)
	}
	var v apiService
	relaytest.Eventually(t, "the bytes to be counted", func() bool {
		v = s.service(shown)
		return v.Totals.BytesUp == 5 && v.Totals.BytesDown == 7
	})
	if v.Policy != "two_strike" || v.Active.TCP != 1 || v.Active.UDP != 0 || v.Removed || v.Totals.Connections != 1 || v.Totals.Failures != 2 || v.Totals.Demotions != 1 {
		t.Errorf("got %+v", v)
	}
	if n, ok := v.Refused["no_backend"]; !ok || n != 0 {
		t.Errorf("refused: %v", v.Refused)
	}
	if !slices.Equal(order(v), []string{live, dead}) {
		t.Fatalf("order %v", order(v))
	}
	up, down := v.Backends[0], v.Backends[1]
	ip := []string{"127.0.0.1"}
	if up.Position != 1 || up.Configured != 2 || up.State != "up" || up.Active.TCP != 1 || up.Totals.Connections != 1 || up.Totals.BytesUp != 5 ||
		up.Failure != nil || up.Connect.P50 <= 0 || up.Connect.P99 < up.Connect.P50 || !slices.Equal(up.Addresses, ip) {
		t.Errorf("the one that serves: %+v", up)
	}
	if down.Position != 2 || down.Configured != 1 || down.State != "cooling" || down.Networks["tcp"].State != "cooling" || down.Networks["udp"].State != "up" ||
		time.Until(down.Cooling) < 50*time.Minute || down.Totals.Failures != 2 || down.Totals.Demotions != 1 || down.Active.TCP != 0 {
		t.Errorf("the one that is down: %+v", down)
	}
	if f := down.Failure; f == nil || f.Address != dead || !strings.Contains(f.Error, "refused") || time.Since(f.At) > relaytest.Limit {
		t.Errorf("its last failure: %+v", f)
	}
}

// Service names may contain any characters, also those of paths.
func TestAdminNames(t *testing.T) {
	names := []string{"a/b", "a%2Fb", "a//b", "a b", "[::1]:80", "?x=y", "#1", "ü", ".", "..", "a/reset", "backends"}
	live, _ := echoTCP(t, "b")
	var config strings.Builder
	for _, name := range names {
		config.WriteString(block("relay+tcp/"+freeAddr(t), fmt.Sprintf("%s [::1]:1 {\n name %q\n }", live, name)))
	}
	s := start(t, config.String())
	for _, name := range names {
		path := strings.ReplaceAll(url.PathEscape(name), ".", "%2E")
		var v apiService
		s.must("GET", "services/"+path, &v)
		if v.Name != name {
			t.Errorf("requested %q, got %q", name, v.Name)
		}
		var b apiBackend
		s.must("POST", "services/"+path+"/backends/[::1]:1/drain", &b)
		if b.Address != "[::1]:1" || b.State != "draining" {
			t.Errorf("%q: %+v", name, b)
		}
		s.must("GET", "explain?service="+url.QueryEscape(name), nil)
	}
	all := s.listed(names...)
	byName := slices.IsSortedFunc(all, func(a, b apiService) int { return strings.Compare(a.Name, b.Name) })
	if len(all) != len(names) || !byName {
		t.Errorf("%d services, by name: %v", len(all), byName)
	}
}

func TestAdminErrors(t *testing.T) {
	live, _ := echoTCP(t, "b")
	dead, one, two := freeAddr(t), unique("one"), unique("two")
	s := start(t, block("relay+tcp/"+freeAddr(t), live+" "+dead+" {\n name "+one+"\n }")+
		block("relay+tcp/"+freeAddr(t), live+" {\n name "+two+"\n }")+
		// Two unnamed services with the same backends have the same name.
		block("relay+tcp/"+freeAddr(t), live+" {\n idle_timeout 1m\n }")+
		block("relay+tcp/"+freeAddr(t), live+" {\n idle_timeout 2m\n }"))
	for _, test := range []struct {
		method, path string
		status       int
		want, allow  string
	}{
		{"GET", "services/three", 404, `unknown service "three" (have `, ""},
		{"GET", "services/three", 404, live + ", ", ""},
		{"POST", "services/three/reset", 404, two, ""},
		{"GET", "explain?service=three", 404, two, ""},
		{"GET", "explain", 400, `missing query parameter "service"`, ""},
		{"POST", "services/" + one + "/backends/x:1/drain", 404, `unknown backend "x:1" (have ` + live + ", " + dead + ")", ""},
		{"POST", "services/" + one + "/backends/x:1/test", 404, live, ""},
		{"POST", "services/" + two + "/backends/" + live + "/drain", 409, "last backend", ""},
		{"POST", "services/" + live + "/reset", 409, "2 services are called", ""},
		{"POST", "services", 405, "POST", "GET, HEAD"},
		{"DELETE", "services/" + one, 405, "DELETE", "GET, HEAD"},
		{"GET", "services/" + one + "/reset", 405, "GET", "POST"},
		{"PUT", "services/" + one + "/backends/" + live + "/drain", 405, "PUT", "POST"},
		{"GET", "dns/flush", 405, "GET", "POST"},
		{"GET", "nothing", 404, "/relay/nothing", ""},
		{"GET", "services/" + one + "/backends", 404, "/relay/services/" + one + "/backends", ""},
	} {
		status, problem, header := s.ask(test.method, test.path, nil)
		if status != test.status || !strings.Contains(problem, test.want) || header.Get("Allow") != test.allow {
			t.Errorf("%s %s: %d %q, allowed %q", test.method, test.path, status, problem, header.Get("Allow"))
		}
	}
	if got := s.lines("changed through the admin API"); len(got) != 0 {
		t.Errorf("logged failed requests: %v", got)
	}
}
