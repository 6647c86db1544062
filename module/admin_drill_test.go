package module_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A drill moves new clients to the next backend. Status, metrics, journal and
// receipt show it, over the API and the command.
func TestAdminDrills(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		a, _ := echoTCP(t, "a")
		b, _ := echoTCP(t, "b")
		at, name := freeAddr(t), unique("drilled")
		s := start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name %s\n }", a, b, name)))
		old := dial(t, "tcp", at)
		if got := ask(t, old, "x"); got != "a x" {
			t.Errorf("got %q", got)
		}
		path := "services/" + name + "/backends/"
		if status, problem, _ := s.ask("GET", path+a+"/drill", nil); status != 404 || problem != "no drill of "+a {
			t.Errorf("before: %d %s", status, problem)
		}
		var d struct {
			Fault   string
			Running bool
			Strikes int
			Moved   int     `json:"clients_moved"`
			Refused int     `json:"clients_refused"`
			Slowest float64 `json:"slowest_ms"`
		}
		s.mustSend("POST", path+a+"/drill", `{"fault": "refuse", "for": "10m"}`, &d)
		if d.Fault != "refuse" || !d.Running {
			t.Errorf("started: %+v", d)
		}
		if got := ask(t, dial(t, "tcp", at), "y"); got != "b y" {
			t.Errorf("got %q", got)
		}
		if got := ask(t, old, "z"); got != "a z" {
			t.Errorf("a relay from before: %q", got)
		}
		s.shows(map[string]float64{
			fmt.Sprintf("drill_active{backend=%q,service=%q}", a, name): 1,
			fmt.Sprintf("drill_active{backend=%q,service=%q}", b, name): 0,
		})
		if out := s.relay("status", name); !strings.Contains(out, a+": drill, it seems to refuse\n") {
			t.Errorf("status:\n%s", out)
		}
		var test struct {
			OK    bool
			Dials []struct{ Error string }
		}
		s.mustSend("POST", path+a+"/test", "", &test)
		if test.OK || len(test.Dials) != 1 || test.Dials[0].Error != "drill: connection refused" {
			t.Errorf("a test during the drill: %+v", test)
		}
		if status, problem, _ := s.send("POST", path+b+"/drill", `{"fault": "silent"}`, nil); status != 409 || !strings.HasSuffix(problem, "it is the last backend that is available") {
			t.Errorf("the last backend: %d %s", status, problem)
		}
		if out := s.relay("drill", name, a, "--stop"); !strings.Contains(out, "strikes          2\nclients moved    1\n") {
			t.Errorf("receipt:\n%s", out)
		}
		s.must("GET", path+a+"/drill", &d)
		if d.Running || d.Strikes != 2 || d.Moved != 1 || d.Refused != 0 || d.Slowest <= 0 {
			t.Errorf("ended: %+v", d)
		}
		if got := kinds(s.explain(name)); !slices.Equal(got, []string{"drill", "strike", "demotion", "drill_ended"}) {
			t.Errorf("journal: %v", got)
		}
		out, notice, status := run(t, []string{"CADDY_ADMIN=" + s.admin}, "relay", "drill", name, b, "slow", "--for", "100ms", "--force")
		if status != 0 || !strings.Contains(out, b+" of "+name+", slow for ") || !strings.HasPrefix(notice, "drill: "+b+" of "+name+" seems to be slow until ") {
			t.Errorf("a drill that has ended by itself: status %d\n%s\n%s", status, notice, out)
		}
		for body, want := range map[string]string{
			`{"fault": "bite"}`:               `fault must be refuse, silent, reset or slow, got "bite"`,
			`{"fault": "slow", "for": "2h"}`:  `for must be a duration such as 60s, at most 1h0m0s, got "2h"`,
			`{"fault": "slow", "forr": "1s"}`: `body: json: unknown field "forr"`,
		} {
			if status, problem, _ := s.send("POST", path+a+"/drill", body, nil); status != 400 || problem != want {
				t.Errorf("%s: %d %s", body, status, problem)
			}
		}
	})
}

// A reload that removes a drilled backend ends its drill. The receipt stays.
func TestReloadEndsTheDrillOfARemovedBackend(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	at, name := freeAddr(t), unique("drilled")
	s := start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name %s\n }", a, b, name)))
	path := "services/" + name + "/backends/" + a + "/drill"
	s.mustSend("POST", path, `{"fault": "silent", "for": "10m"}`, nil)
	relaytest.Check(t, s.reload(block("TCP/"+at, fmt.Sprintf("%s {\n name %s\n }", b, name))))
	var d struct{ Running bool }
	d.Running = true
	if s.must("GET", path, &d); d.Running {
		t.Error("the drill outlives its backend")
	}
	if got := kinds(s.explain(name)); !slices.Contains(got, "drill_ended") {
		t.Errorf("journal: %v", got)
	}
}
