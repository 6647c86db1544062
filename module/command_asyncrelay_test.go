package module_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// asyncRelayProcess is a running `caddy async-relay`.
type asyncRelayProcess struct {
	*process
	file string
	at   string // the address of its service
}

func (p *asyncRelayProcess) config(backend, more string) string {
	host, port, _ := strings.Cut(p.at, ":")
	return fmt.Sprintf("services:\n  - name: main\n    protocol: tcp\n    listen:\n      address: %s\n      port: %s\n    backends: [%q]\n%s", host, port, backend, more)
}

// write replaces the file atomically, as editors do.
func (p *asyncRelayProcess) write(text string) {
	p.t.Helper()
	if err := os.WriteFile(p.file+".new", []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(p.file+".new", p.file); err != nil {
		p.t.Fatal(err)
	}
}

func (p *asyncRelayProcess) waitFor(text string) {
	p.t.Helper()
	relaytest.Eventually(p.t, fmt.Sprintf("%q in the log", text), func() bool { return strings.Contains(p.text(), text) })
}

// startAsyncRelay runs the command in a directory that has the file at its default
// path, config/config.yaml.
func startAsyncRelay(t *testing.T, backend, more string, args ...string) *asyncRelayProcess {
	t.Helper()
	return startAsyncRelayWith(t, nil, backend, more, args...)
}

// startAsyncRelayWith is startAsyncRelay with a file for the output. nil stands for
// the file that text reads.
func startAsyncRelayWith(t *testing.T, output *os.File, backend, more string, args ...string) *asyncRelayProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &asyncRelayProcess{process: &process{t: t}, file: filepath.Join(dir, "config", "config.yaml"), at: freeAddr(t)}
	if err := os.Mkdir(filepath.Dir(p.file), 0o700); err != nil {
		t.Fatal(err)
	}
	p.write(p.config(backend, more))
	cmd := exec.Command(self, append([]string{"async-relay"}, args...)...)
	cmd.Dir = dir
	t.Setenv("CADDY_ADMIN", freeAddr(t))
	if output != nil {
		p.process = spawnWith(t, "caddy", cmd, output)
	} else {
		p.process = spawn(t, "caddy", cmd)
	}
	return p
}

func (p *asyncRelayProcess) terminate() {
	p.t.Helper()
	waitSignals(p.t, os.Getenv("CADDY_ADMIN"))
	p.process.terminate()
}

func (p *asyncRelayProcess) wantAnswer(want string) {
	p.t.Helper()
	conn := dial(p.t, "tcp", p.at)
	defer conn.Close() // otherwise the exit waits for the relay
	if got := ask(p.t, conn, "x"); got != want {
		p.t.Errorf("got %q, want %q", got, want)
	}
}

// The command follows changes of its file and rejects bad ones.
func TestAsyncRelayFollowsItsFile(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	t.Setenv("AUTOMEMLIMIT", "0.5")
	p := startAsyncRelay(t, a, "    colour: blue\n", "--reload-delay", "0.1")
	p.wantAnswer("a x")
	wantMemoryLimit(t, os.Getenv("CADDY_ADMIN"))
	p.waitFor(`"field":"colour"`) // a warning of the adapter

	p.write(p.config(b, ""))
	p.waitFor("config file reloaded")
	p.wantAnswer("b x")

	p.write("# nothing new\n" + p.config(b, ""))
	p.waitFor("config file changed, settings unchanged")

	p.write(p.config("no port", "    backend_cooldown: -1\n"))
	p.waitFor("config file rejected, keeping the running config")
	for _, problem := range []string{"no port", "backend_cooldown"} { // all problems are logged
		if !strings.Contains(p.text(), problem) {
			t.Errorf("the log lacks %q", problem)
		}
	}
	p.wantAnswer("b x")

	p.write(p.config(a, ""))
	relaytest.Eventually(t, "the second reload", func() bool { return strings.Count(p.text(), "config file reloaded") == 2 })
	p.wantAnswer("a x")
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// The command writes no autosave.json: the file is the only source of the settings.
func TestAsyncRelayDoesNotSaveItsConfig(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startAsyncRelay(t, a, "", "--reload-delay", "0.1")
	p.wantAnswer("a x")
	p.write(p.config(b, ""))
	p.waitFor("config file reloaded")
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	saved, err := filepath.Glob(filepath.Join(home, "*", "*"))
	relaytest.Check(t, err)
	if len(saved) > 0 {
		t.Errorf("saved %v", saved)
	}
}

func TestAsyncRelayLogLevel(t *testing.T) {
	a, _ := echoTCP(t, "a")
	p := startAsyncRelay(t, a, "    colour: blue\n", "--log-level", "ERROR")
	p.wantAnswer("a x")
	// Before its config is loaded, Caddy logs at its default level.
	quiet := func(line string) bool { return strings.Contains(line, "layer4.handlers.relay") }
	if lines := strings.Split(p.text(), "\n"); slices.ContainsFunc(lines, quiet) {
		t.Errorf("got %q", lines)
	}
}

// Errors at the start end the command, with all problems in the message.
func TestAsyncRelayStartErrors(t *testing.T) {
	dir := t.TempDir()
	bad, good := filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "good.yaml")
	for file, text := range map[string]string{
		bad:  "services:\n  - name: one\n    listen: {address: 127.0.0.1, port: 99999}\n    backends: [nowhere]\n",
		good: "services:\n  - name: one\n    listen: {address: 127.0.0.1, port: 1}\n    backends: ['127.0.0.1:1']\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"-c", bad}, []string{"line 3", "99999", "line 4", "nowhere"}},
		{[]string{"-c", filepath.Join(dir, "none.yaml")}, []string{"none.yaml"}},
		{[]string{"-c", good, "--log-level", "LOUD"}, []string{"DEBUG, INFO, WARNING, ERROR", "LOUD"}},
		{[]string{"-c", good, "--reload-delay", "-1"}, []string{"--reload-delay", "-1"}},
		{[]string{"-c", good, "--reload-delay", "NaN"}, []string{"--reload-delay", "NaN"}},
		{[]string{"-c", good, "more"}, []string{"more"}},
		{nil, []string{filepath.Join("config", "config.yaml")}},
	} {
		_, problems, status := run(t, []string{"CADDY_ADMIN=" + freeAddr(t)}, append([]string{"async-relay"}, test.args...)...)
		if status != 1 {
			t.Errorf("%v: status %d", test.args, status)
		}
		for _, want := range test.want {
			if !strings.Contains(problems, want) {
				t.Errorf("%v: no %q in %s", test.args, want, problems)
			}
		}
	}
}
