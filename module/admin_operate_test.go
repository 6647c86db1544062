package module_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

type apiExplanation struct {
	Service  string
	Order    []string
	Backends []apiBackend
	Journal  []struct {
		Kind, Network, Backend, Address, Cause, By, Sentence string
		Order                                                []string
	}
}

func (s *server) explain(service string) (e apiExplanation) {
	s.t.Helper()
	s.must("GET", "explain?service="+service, &e)
	return e
}

func kinds(e apiExplanation) (found []string) {
	for _, entry := range e.Journal {
		found = append(found, entry.Kind)
	}
	return found
}

// isLoopback reports whether text is a loopback address with a port, as the
// requests of these tests have.
func isLoopback(text string) bool {
	host, _, err := net.SplitHostPort(text)
	return err == nil && host == "127.0.0.1"
}

// A drained backend gets no new clients, also after a reload, and keeps those that
// it has.
func TestAdminDrains(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		a, _ := echoTCP(t, "a")
		b, _ := echoTCP(t, "b")
		at, name := freeAddr(t), unique("drained")
		config := func(idle string) string {
			return block("TCP/"+at, fmt.Sprintf("%s %s {\n name %s\n idle_timeout %s\n }", a, b, name, idle))
		}
		s := start(t, config("1m"))
		old := dial(t, "tcp", at)
		wantAnswer := func(conn net.Conn, want string) {
			t.Helper()
			if got := ask(t, conn, "x"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		wantAnswer(old, "a x")

		var v apiBackend
		path := "services/" + name + "/backends/"
		for range 2 { // draining twice changes nothing
			s.must("POST", path+a+"/drain", &v)
			if v.Address != a || v.State != "draining" || v.Active.TCP != 1 {
				t.Errorf("got %+v", v)
			}
		}
		wantAnswer(dial(t, "tcp", at), "b x")
		s.mustReload(config("2m"))
		if got := s.service(name).Backends[0]; got.Address != a || got.State != "draining" {
			t.Errorf("after the reload: %+v", got)
		}
		wantAnswer(dial(t, "tcp", at), "b x")
		wantAnswer(old, "a x")
		if status, problem, _ := s.ask("POST", path+b+"/drain", nil); status != 409 || !strings.Contains(problem, "last backend") {
			t.Errorf("the last one: %d %s", status, problem)
		}
		s.must("POST", path+a+"/resume", &v)
		if v.State != "up" {
			t.Errorf("resumed: %+v", v)
		}
		wantAnswer(dial(t, "tcp", at), "a x")

		changes := s.lines("changed through the admin API")
		if len(changes) != 2 {
			t.Fatalf("logged %v", changes)
		}
		for i, action := range []string{"drain", "resume"} {
			line := changes[i]
			if line["level"] != "info" || line["action"] != action || line["service"] != name || line["backend"] != a || !isLoopback(fmt.Sprint(line["remote"])) {
				t.Errorf("logged %v", line)
			}
		}
		e := s.explain(name)
		if got := kinds(e); !slices.Equal(got, []string{"drain", "resume"}) {
			t.Fatalf("journal: %v", got)
		}
		for _, entry := range e.Journal {
			if entry.Backend != a || !isLoopback(entry.By) || !strings.Contains(entry.Sentence, entry.Kind+": "+a) {
				t.Errorf("journal: %+v", entry)
			}
		}
	})
}

// A reload can remove the last backend that is not drained. That is logged.
func TestAllDrainedByAReload(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	at, name := freeAddr(t), unique("drained")
	s := start(t, block("relay+tcp/"+at, a+" "+b+" {\n name "+name+"\n }"))
	s.must("POST", "services/"+name+"/backends/"+a+"/drain", new(apiBackend))
	const message = "all backends are drained, new clients are refused"
	s.mustReload(block("relay+tcp/"+at, a+" "+b+" {\n name "+name+"\n idle_timeout 1m\n }"))
	if changes := s.lines(message); len(changes) != 0 {
		t.Errorf("logged %v", changes)
	}
	s.mustReload(block("relay+tcp/"+at, a+" {\n name "+name+"\n }"))
	if changes := s.lines(message); len(changes) != 1 || changes[0]["service"] != name || changes[0]["level"] != "warn" {
		t.Errorf("logged %v", changes)
	}
	turnedAway(t, at)
}

func TestAdminResetsAndExplains(t *testing.T) {
	live, _ := echoTCP(t, "b")
	dead, at, name := freeAddr(t), freeAddr(t), unique("queue")
	s := start(t, block("relay+tcp/"+at, dead+" "+live+" {\n name "+name+"\n }"))
	client := dial(t, "tcp", at)
	ask(t, client, "x")
	e := s.explain(name)
	if !slices.Equal(e.Order, []string{live, dead}) || e.Service != name || len(e.Backends) != 2 || e.Backends[1].State != "down" {
		t.Errorf("got %+v", e)
	}
	if got := kinds(e); !slices.Equal(got, []string{"strike", "demotion"}) {
		t.Fatalf("journal: %v", got)
	}
	if d := e.Journal[1]; d.Network != "tcp" || d.Backend != dead || d.Address != dead || !strings.Contains(d.Cause, "refused") || d.By != client.LocalAddr().String() ||
		!slices.Equal(d.Order, e.Order) || !strings.Contains(d.Sentence, "second strike: "+dead+" moved to the end") {
		t.Errorf("the demotion: %+v", d)
	}

	var v apiService
	s.must("POST", "services/"+name+"/reset", &v)
	if !slices.Equal(order(v), []string{dead, live}) || v.Backends[0].State != "up" || v.Totals.Failures != 2 || v.Active.TCP != 1 {
		t.Errorf("after the reset: %+v", v)
	}
	e = s.explain(name)
	if last := e.Journal[len(e.Journal)-1]; last.Kind != "reset" || !isLoopback(last.By) || !slices.Equal(last.Order, []string{dead, live}) {
		t.Errorf("journal: %+v", last)
	}
	changes := s.lines("changed through the admin API")
	if len(changes) != 1 || changes[0]["action"] != "reset" || changes[0]["service"] != name || fmt.Sprint(changes[0]["order"]) != fmt.Sprintf("[%s %s]", dead, live) {
		t.Errorf("logged %v", changes)
	}
}

// A removed service is listed as long as it has relays. The services of a
// rejected config are not listed.
func TestAdminListsServices(t *testing.T) {
	live, _ := echoTCP(t, "b")
	at := freeAddr(t)
	goes, keeps, rejected := unique("goes"), unique("keeps"), unique("rejected")
	names := func(s *server) (found []string) {
		for _, v := range s.listed(goes, keeps, rejected) {
			if v.Removed {
				v.Name += " removed"
			}
			found = append(found, v.Name)
		}
		return found
	}
	want := func(s *server, want ...string) {
		t.Helper()
		if got := names(s); !slices.Equal(got, want) {
			t.Errorf("services %q, want %q", got, want)
		}
	}
	stays := block("relay+tcp/"+freeAddr(t), live+" {\n name "+keeps+"\n }") + // two servers, one service
		block("relay+tcp/"+freeAddr(t), live+" {\n name "+keeps+"\n }")
	s := start(t, stays+block("relay+tcp/"+at, live+" {\n name "+goes+"\n }"))
	conn := dial(t, "tcp", at)
	ask(t, conn, "x")
	want(s, goes, keeps)
	taken := listenTCP(t)
	if err := s.reload(block("relay+tcp/"+freeAddr(t), live+" {\n name "+rejected+"\n }") + block("relay+tcp/"+taken.Addr().String(), live)); err == nil {
		t.Fatal("accepted")
	}
	want(s, goes, keeps) // the router of the rejected config answers
	s.mustReload(stays)
	want(s, goes+" removed", keeps)
	s.must("POST", "services/"+goes+"/reset", nil)
	conn.Close()
	relaytest.Eventually(t, "the last relay to end", func() bool { return len(names(s)) == 1 })
	want(s, keeps)
}

// A backend that a reload removes is listed as long as it has relays.
func TestAdminShowsRemovedBackends(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	at, name := freeAddr(t), unique("removes")
	s := start(t, block("relay+tcp/"+at, a+" "+b+" {\n name "+name+"\n }"))
	conn := dial(t, "tcp", at)
	ask(t, conn, "x")
	s.mustReload(block("relay+tcp/"+at, b+" {\n name "+name+"\n }"))
	v := s.service(name)
	if !slices.Equal(order(v), []string{b, a}) {
		t.Fatalf("got %+v", v)
	}
	if gone := v.Backends[1]; gone.State != "removed" || gone.Networks["tcp"].State != "removed" || gone.Position != 0 || gone.Configured != 0 || gone.Active.TCP != 1 {
		t.Errorf("got %+v", gone)
	}
	if status, problem, _ := s.ask("POST", "services/"+name+"/backends/"+a+"/drain", nil); status != 404 || !strings.Contains(problem, b) {
		t.Errorf("drained a removed backend: %d %s", status, problem)
	}
	conn.Close()
	relaytest.Eventually(t, "its last relay to end", func() bool { return len(s.service(name).Backends) == 1 })
}

// The state of a backend is the worse one of its networks.
func TestAdminShowsTheWorseNetwork(t *testing.T) {
	a, _ := echoTCP(t, "a") // and no UDP
	b, _ := echoUDP(t, "b", freeAddr(t))
	at, name := freeAddr(t), unique("worse")
	s := start(t, bothAt(at, a+" "+b+" {\n name "+name+"\n udp_responses 1\n }"))
	if got := keepAsking(t, dial(t, "udp", at), "x"); got != "b x" {
		t.Fatalf("got %q", got)
	}
	v := s.service(name)
	if !slices.Equal(order(v), []string{b, a}) {
		t.Fatalf("order %v", order(v))
	}
	if half := v.Backends[1]; half.State != "down" || half.Networks["tcp"].State != "up" || half.Networks["udp"].State != "down" {
		t.Errorf("got %+v", half)
	}
}
