package module_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// originalProcess is `caddy async-relay` with a file of its own.
type originalProcess struct {
	*process
	file string
	at   string // where its service listens
}

func (p *originalProcess) config(backend, more string) string {
	host, port, _ := strings.Cut(p.at, ":")
	return fmt.Sprintf("services:\n  - name: main\n    protocol: tcp\n    listen:\n      address: %s\n      port: %s\n    backends: [%q]\n%s", host, port, backend, more)
}

// write replaces the file in one step, as an editor does.
func (p *originalProcess) write(text string) {
	p.t.Helper()
	if err := os.WriteFile(p.file+".new", []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(p.file+".new", p.file); err != nil {
		p.t.Fatal(err)
	}
}

func (p *originalProcess) waitFor(text string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%q in the log", text), func() bool { return strings.Contains(p.text(), text) })
}

// startOriginal runs it where the file is config/config.yaml, so that it needs
// no -c.
func startOriginal(t *testing.T, backend, more string, args ...string) *originalProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &originalProcess{process: &process{t: t}, file: filepath.Join(dir, "config", "config.yaml"), at: freeAddr(t)}
	if err := os.Mkdir(filepath.Dir(p.file), 0o700); err != nil {
		t.Fatal(err)
	}
	p.write(p.config(backend, more))
	cmd := exec.Command(self, append([]string{"async-relay"}, args...)...)
	cmd.Dir = dir
	t.Setenv("CADDY_ADMIN", freeAddr(t))
	p.process = spawn(t, "caddy", cmd)
	return p
}

func (p *originalProcess) wantAnswer(want string) {
	p.t.Helper()
	conn := dial(p.t, "tcp", p.at)
	defer conn.Close() // or the exit waits for it
	if got := ask(p.t, conn, "x"); got != want {
		p.t.Errorf("got %q, want %q", got, want)
	}
}

// The original's file is followed through changes, good and bad.
func TestOriginalFollowsItsFile(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startOriginal(t, a, "    colour: blue\n", "--reload-delay", "0.1")
	p.wantAnswer("a x")
	p.waitFor(`"field":"colour"`) // a warning of the adapter

	p.write(p.config(b, ""))
	p.waitFor("config file reloaded")
	p.wantAnswer("b x")

	p.write("# nothing new\n" + p.config(b, ""))
	p.waitFor("config file changed, settings unchanged")

	p.write(p.config("no port", "    backend_cooldown: -1\n"))
	p.waitFor("config file rejected, keeping the running config")
	for _, problem := range []string{"no port", "backend_cooldown"} { // all of them
		if !strings.Contains(p.text(), problem) {
			t.Errorf("nothing is said of %q", problem)
		}
	}
	p.wantAnswer("b x")

	p.write(p.config(a, ""))
	eventually(t, "the second reload", func() bool { return strings.Count(p.text(), "config file reloaded") == 2 })
	p.wantAnswer("a x")
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestOriginalLogLevel(t *testing.T) {
	a, _ := echoTCP(t, "a")
	p := startOriginal(t, a, "    colour: blue\n", "--log-level", "ERROR")
	p.wantAnswer("a x")
	// Caddy's own lines before its config is in force are not at that level.
	quiet := func(line string) bool { return strings.Contains(line, "layer4.handlers.relay") }
	if lines := strings.Split(p.text(), "\n"); slices.ContainsFunc(lines, quiet) {
		t.Errorf("got %q", lines)
	}
}

// What is wrong at the start ends it, with all there is to say.
func TestOriginalRefuses(t *testing.T) {
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
		says []string
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
		for _, says := range test.says {
			if !strings.Contains(problems, says) {
				t.Errorf("%v: nothing of %q in %s", test.args, says, problems)
			}
		}
	}
}
