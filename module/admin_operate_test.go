package module_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
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

// isLoopback says whether text is where a request of this test came from.
func isLoopback(text string) bool {
	host, _, err := net.SplitHostPort(text)
	return err == nil && host == "127.0.0.1"
}

// Nobody new is sent to a drained backend, whatever is reloaded meanwhile, and
// those that are there stay.
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
		for range 2 { // once more changes nothing
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

		told := s.lines("changed through the admin API")
		if len(told) != 2 {
			t.Fatalf("told %v", told)
		}
		for i, action := range []string{"drain", "resume"} {
			line := told[i]
			if line["level"] != "info" || line["action"] != action || line["service"] != name || line["backend"] != a || !isLoopback(fmt.Sprint(line["remote"])) {
				t.Errorf("told %v", line)
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

// The last backend that takes new clients can still leave the config.
func TestAllDrainedByAReload(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	at, name := freeAddr(t), unique("drained")
	s := start(t, block("relay+tcp/"+at, a+" "+b+" {\n name "+name+"\n }"))
	s.must("POST", "services/"+name+"/backends/"+a+"/drain", new(apiBackend))
	const message = "all backends are drained, new clients are refused"
	s.mustReload(block("relay+tcp/"+at, a+" "+b+" {\n name "+name+"\n idle_timeout 1m\n }"))
	if told := s.lines(message); len(told) != 0 {
		t.Errorf("told %v", told)
	}
	s.mustReload(block("relay+tcp/"+at, a+" {\n name "+name+"\n }"))
	if told := s.lines(message); len(told) != 1 || told[0]["service"] != name || told[0]["level"] != "warn" {
		t.Errorf("told %v", told)
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
	told := s.lines("changed through the admin API")
	if len(told) != 1 || told[0]["action"] != "reset" || told[0]["service"] != name || fmt.Sprint(told[0]["order"]) != fmt.Sprintf("[%s %s]", dead, live) {
		t.Errorf("told %v", told)
	}
}

// A service that left the config is there for as long as it has relays, and
// what a rejected config has is not there at all.
func TestAdminListsWhatServes(t *testing.T) {
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
	stays := block("relay+tcp/"+freeAddr(t), live+" {\n name "+keeps+"\n }") + // on two servers: one service
		block("relay+tcp/"+freeAddr(t), live+" {\n name "+keeps+"\n }")
	s := start(t, stays+block("relay+tcp/"+at, live+" {\n name "+goes+"\n }"))
	conn := dial(t, "tcp", at)
	ask(t, conn, "x")
	want(s, goes, keeps)
	taken := listenTCP(t)
	if err := s.reload(block("relay+tcp/"+freeAddr(t), live+" {\n name "+rejected+"\n }") + block("relay+tcp/"+taken.Addr().String(), live)); err == nil {
		t.Fatal("accepted")
	}
	want(s, goes, keeps) // and there is an answer, from the rejected config's router
	s.mustReload(stays)
	want(s, goes+" removed", keeps)
	s.must("POST", "services/"+goes+"/reset", nil)
	conn.Close()
	eventually(t, "the last relay to end", func() bool { return len(names(s)) == 1 })
	want(s, keeps)
}

// A backend that a reload takes out is shown for as long as it has relays.
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
		t.Errorf("drained all the same: %d %s", status, problem)
	}
	conn.Close()
	eventually(t, "its last relay to end", func() bool { return len(s.service(name).Backends) == 1 })
}

// The worse of the two networks stands for a backend.
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
