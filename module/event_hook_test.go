package module_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// recorder is an event hook that records its events in a file.
type recorder struct {
	t    *testing.T
	hook string // the beginning of an event_hook line
	log  string // the file
}

// record returns a recorder. Its command then runs the shell text more.
func record(t *testing.T, more string) *recorder {
	t.Helper()
	dir := t.TempDir()
	r := &recorder{t: t, log: filepath.Join(dir, "events")}
	script := filepath.Join(dir, "hook")
	text := fmt.Sprintf("{ env | grep ^RELAY_; echo; } >>'%s'\ncd '%s'\n%s\n", r.log, dir, more)
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.hook = fmt.Sprintf("event_hook sh %q", script)
	return r
}

// file returns the path of a file in the directory that the script runs in.
func (r *recorder) file(name string) string { return filepath.Join(filepath.Dir(r.log), name) }

// events returns the variables of each run, in order.
func (r *recorder) events() (all []map[string]string) {
	text, err := os.ReadFile(r.log)
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	runs := strings.Split(string(text), "\n\n")
	for _, run := range runs[:len(runs)-1] { // the text after the last separator may be incomplete
		variables := make(map[string]string)
		for line := range strings.Lines(run) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			variables[name] = value
		}
		all = append(all, variables)
	}
	return all
}

// wait waits for n events and returns all of them, each as its type and port.
func (r *recorder) wait(n int) (all []string) {
	r.t.Helper()
	relaytest.Eventually(r.t, fmt.Sprintf("%d runs of the hook", n), func() bool { return len(r.events()) >= n })
	for _, e := range r.events() {
		all = append(all, strings.TrimSpace(e["RELAY_EVENT_TYPE"]+" "+e["RELAY_BACKEND_PORT"]))
	}
	return all
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// turnedAway connects to at and checks that the relay refuses it with a reset.
func turnedAway(t *testing.T, at string) {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil { // the reset may come before Dial returns
		if !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
	reset(t, conn)
}

// twoOutages causes each event for two backends and returns the events.
func twoOutages(t *testing.T, at string, a, b *mortal) (want []string) {
	t.Helper()
	served := func() {
		t.Helper()
		if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
			t.Errorf("got %q", got)
		}
	}
	a.kill()
	for range 3 {
		served() // by b
	}
	b.kill()
	for range 3 {
		turnedAway(t, at)
	}
	a.rise()
	served()
	b.rise()
	served() // a continues
	a.kill()
	served()
	pa, pb := " "+portOf(a.addr), " "+portOf(b.addr)
	return []string{
		"backend_failed" + pa,
		"backend_failed" + pb, "all_backends_unavailable",
		"backend_recovered" + pa,
		"backend_failed" + pa, "all_backends_unavailable", // b has not succeeded since
		"backend_recovered" + pb,
	}
}

func TestEventHookReceivesEvents(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		a, b, at, r := newMortal(t), newMortal(t), freeAddr(t), record(t, "")
		began := time.Now().Truncate(time.Microsecond)
		s := start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name hooked\n %s\n }", a.addr, b.addr, r.hook)))
		want := fmt.Sprint(twoOutages(t, at, a, b))
		if got := fmt.Sprint(r.wait(7)); got != want {
			t.Fatalf("received\n%s, want\n%s", got, want)
		}
		available := []string{"1", "0", "0", "1", "0", "0", "1"}
		before := began
		for i, e := range r.events() {
			failures := "0"
			if e["RELAY_EVENT_TYPE"] == "backend_failed" {
				failures = "2"
			}
			if e["RELAY_SERVICE_NAME"] != "hooked" || e["RELAY_TOTAL_COUNT"] != "2" || e["RELAY_AVAILABLE_COUNT"] != available[i] || e["RELAY_FAILURE_COUNT"] != failures {
				t.Errorf("event %d: %v", i, e)
			}
			_, ofBackend := e["RELAY_BACKEND_HOST"]
			if all := e["RELAY_EVENT_TYPE"] == "all_backends_unavailable"; all == ofBackend {
				t.Errorf("event %d: %v", i, e)
			} else if !all && (e["RELAY_BACKEND_HOST"] != "127.0.0.1" || e["RELAY_BACKEND_IP"] != "127.0.0.1") {
				t.Errorf("event %d: backend %v", i, e)
			}
			at, err := time.Parse("2006-01-02T15:04:05.000000-07:00", e["RELAY_TIMESTAMP"])
			if err != nil || at.Before(before) || at.After(time.Now()) {
				t.Errorf("event %d: at %q, %v, behind one at %v", i, e["RELAY_TIMESTAMP"], err, before)
			}
			before = at
			var whole struct {
				Event, Service, Timestamp string
				Failures                  int `json:"failure_count"`
				Backend                   *struct{ Host, IP string }
			}
			if err := json.Unmarshal([]byte(e["RELAY_EVENT_JSON"]), &whole); err != nil || whole.Event != e["RELAY_EVENT_TYPE"] || whole.Timestamp != e["RELAY_TIMESTAMP"] || (whole.Backend != nil) != ofBackend {
				t.Errorf("event %d: JSON %s, %v", i, e["RELAY_EVENT_JSON"], err)
			}
		}
		relaytest.Eventually(t, "a line for each run", func() bool { return len(s.lines("event command succeeded")) == 7 })
	})
}

// The hook of the current config runs.
func TestEventHookFollowsReloads(t *testing.T) {
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	first, second, last := record(t, ""), record(t, ""), record(t, "")
	config := func(hook string) string {
		return block("TCP/"+at, fmt.Sprintf("%s %s {\n name hooked\n %s\n }", a.addr, b.addr, hook))
	}
	// swap kills the backend that serves, so that the other one serves. That one
	// recovers if it was down before.
	serving, other := a, b
	swap := func(s *server) {
		t.Helper()
		serving.kill()
		if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
			t.Errorf("got %q", got)
		}
		serving.rise()
		serving, other = other, serving
	}
	s := start(t, config(first.hook))
	swap(s)
	first.wait(1)
	s.mustReload(config(second.hook + " {\n events backend_failed\n }"))
	swap(s) // also a recovery; for a moment no backend was available
	second.wait(1)
	s.mustReload(config(""))
	swap(s)
	if err := s.reload(config(first.hook) + block("192.0.2.1:1", a.addr)); err == nil {
		t.Fatal("a listener on an address that is not ours was accepted")
	}
	swap(s)
	s.mustReload(config(last.hook + " {\n events backend_recovered\n }"))
	swap(s)
	got := []int{len(last.wait(1)), len(first.events()), len(second.events())}
	if fmt.Sprint(got) != "[1 1 1]" {
		t.Errorf("the last hook, the first and the second ran %v times", got)
	}
}

// A removed service runs no hook, also if its last relays fail.
func TestEventHookOfARemovedService(t *testing.T) {
	at, other, dead := freeAddr(t), freeAddr(t), freeAddr(t)
	gone, stays := record(t, ""), record(t, "")
	rest := block("TCP/"+other, fmt.Sprintf("%s {\n name stays\n %s\n }", dead, stays.hook))
	s := start(t, rest+block("TCP/"+at, fmt.Sprintf("backend.example:1 {\n name goes\n resolvers %s\n connect_timeout 2s\n %s\n }", silentUDP(t), gone.hook)))
	client := dial(t, "tcp", at)
	relaytest.Eventually(t, "the search for a backend", func() bool { return active("goes") == 1 })
	s.mustReload(rest)
	reset(t, client)
	if n := len(s.lines("backend failed, second strike")); n != 1 {
		t.Fatalf("%d second strikes", n)
	}
	turnedAway(t, other)
	stays.wait(2)
	if got := gone.events(); len(got) != 0 {
		t.Errorf("received %v", got)
	}
}
