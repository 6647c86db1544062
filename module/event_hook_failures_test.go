package module_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// failover starts a service whose first backend is dead, so that the first client
// triggers the hook.
func failover(t *testing.T, hook string) (s *server, at string) {
	t.Helper()
	good, _ := echoTCP(t, "good")
	at = freeAddr(t)
	return start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name harmed\n %s\n }", freeAddr(t), good, hook))), at
}

// waitExited waits for the exit of the process whose id is in the file.
func waitExited(t *testing.T, path string) {
	t.Helper()
	var pid string
	relaytest.Eventually(t, "the id of a process", func() bool {
		text, err := os.ReadFile(path)
		pid = strings.TrimSpace(string(text))
		return err == nil && pid != "" && strings.HasSuffix(string(text), "\n")
	})
	relaytest.Eventually(t, "process "+pid+" to exit", func() bool {
		state, _ := exec.Command("ps", "-o", "stat=", "-p", pid).Output()
		return len(state) == 0 || state[0] == 'Z' // a zombie: it exited, and its parent has not waited for it
	})
}

// While a hook runs, clients are served and configs are loaded.
func TestSlowHook(t *testing.T) {
	r := record(t, "while [ ! -e go ]; do sleep 0.02; done")
	s, at := failover(t, r.hook)
	for range 20 {
		if got := ask(t, dial(t, "tcp", at), "x"); got != "good x" {
			t.Fatalf("got %q", got)
		}
	}
	r.wait(1)
	other, _ := echoTCP(t, "other")
	s.mustReload(block("TCP/"+at, other+" {\n name harmed\n }"))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "other x" {
		t.Errorf("after the reload: got %q", got)
	}
	if lines := s.lines("event command succeeded"); len(lines) != 0 {
		t.Errorf("it is over: %v", lines)
	}
	if err := os.WriteFile(r.file("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	relaytest.Eventually(t, "the hook's end to be logged", func() bool { return len(s.lines("event command succeeded")) == 1 })
}

// Failures of hooks are logged and have no other effect.
func TestHookFailures(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, hook := range map[string]struct {
		hook, shell string // exactly one is set; shell runs with a timeout
		message     string
		level       string
	}{
		"hangs":             {shell: "echo $$ >id; exec sleep 600", message: "event command timed out", level: "error"},
		"forks":             {shell: "sleep 600 & echo $! >id", message: "event command timed out", level: "error"},
		"floods":            {shell: "echo $$ >id; exec yes", message: "event command timed out", level: "error"},
		"fails":             {shell: "echo $$ >id; echo sorry >&2; exit 3", message: "event command failed", level: "warn"},
		"writes much":       {shell: "echo $$ >id; head -c 3000000 /dev/zero", message: "event command succeeded", level: "info"},
		"does not exist":    {hook: "event_hook /nowhere/to/be/found", message: "event command not found", level: "error"},
		"is not executable": {hook: "event_hook " + plain, message: "event command not executable", level: "error"},
	} {
		t.Run(name, func(t *testing.T) {
			r := record(t, hook.shell)
			if hook.hook == "" {
				timeout := "1h"
				if hook.message == "event command timed out" {
					timeout = "1500ms"
				}
				hook.hook = r.hook + " {\n timeout " + timeout + "\n }"
			}
			s, at := failover(t, hook.hook)
			if got := ask(t, dial(t, "tcp", at), "x"); got != "good x" {
				t.Fatalf("got %q", got)
			}
			relaytest.Eventually(t, hook.message, func() bool { return len(s.lines(hook.message)) == 1 })
			line := s.lines(hook.message)[0]
			if line["level"] != hook.level || line["service"] != "harmed" || line["event"] != "backend_failed" || line["command"] == nil {
				t.Errorf("logged %v", line)
			}
			if hook.shell != "" {
				waitExited(t, r.file("id"))
			}
			if size := len(fmt.Sprint(line)); size > 20_000 {
				t.Errorf("the line has %d bytes", size)
			}
			if got := ask(t, dial(t, "tcp", at), "x"); got != "good x" {
				t.Errorf("afterwards: got %q", got)
			}
		})
	}
}

// An exit kills running commands with all processes that they started.
func TestExitKillsHooks(t *testing.T) {
	r := record(t, "trap '' TERM; sleep 600 & echo $! >child; echo $$ >id; wait; sleep 600")
	good, _ := echoTCP(t, "good")
	at := freeAddr(t)
	p := startProcess(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n %s {\n timeout 1h\n }\n }", freeAddr(t), good, r.hook)), 0)
	conn := dial(t, "tcp", at)
	if got := ask(t, conn, "x"); got != "good x" {
		t.Fatalf("got %q", got)
	}
	r.wait(1)
	conn.Close()
	relaytest.Eventually(t, "the hook's children", func() bool { _, err := os.Stat(r.file("id")); return err == nil })
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	waitExited(t, r.file("child"))
	waitExited(t, r.file("id"))
	if lines := p.lines("event command ended early"); len(lines) != 1 || lines[0]["event"] != "backend_failed" {
		t.Errorf("logged %v", lines)
	}
}
