package module_test

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// spawnRun runs `caddy relay run` in another process.
func spawnRun(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return spawn(t, "caddy", exec.Command(self, append([]string{"relay", "run"}, args...)...))
}

// wantMemoryLimit checks that a process keeps within the memory of the machine or of its
// container.
func wantMemoryLimit(t *testing.T, admin string) {
	t.Helper()
	if limit := processMetric(t, admin, "go_gc_gomemlimit_bytes"); runtime.GOOS == "linux" && limit >= math.MaxInt64 {
		t.Error("there is no memory limit")
	}
}

// The command relays TCP and UDP until a signal. Its admin API is at --address.
func TestRun(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("AUTOMEMLIMIT", "0.5")
	tcp, _ := echoTCP(t, "a")
	at, admin := freeAddr(t), freeAddr(t)
	p := spawnRun(t, "--listen", at, "--to", freeAddr(t)+","+tcp, "--both", "--name", "one line", "--address", "http://"+admin, "--idle-timeout", "10m")
	relaytest.Eventually(t, "the relay to listen", func() bool { return strings.Contains(p.text(), "service started") })
	conn := dial(t, "tcp", at)
	if got := ask(t, conn, "x"); got != "a x" {
		t.Errorf("got %q", got)
	}
	conn.Close()
	out, problems, status := run(t, nil, "relay", "status", "one line", "--address", admin)
	if status != 0 || !strings.Contains(out, tcp) {
		t.Errorf("status %d, %s%s", status, out, problems)
	}
	wantMemoryLimit(t, admin)
	// A second one would share the address of the admin API without a word.
	_, problems, status = run(t, []string{"CADDY_ADMIN=" + admin}, "relay", "run", "--listen", freeAddr(t), "--to", tcp)
	if status != 1 || !strings.Contains(problems, "another Caddy has its admin API at "+admin) {
		t.Errorf("status %d, %s", status, problems)
	}
	waitSignals(t, admin)
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	if _, err := os.Stat(filepath.Join(home, "caddy", "autosave.json")); err == nil {
		t.Error("the command saved its config, which caddy run --resume would load")
	}
}

// The command can be upgraded, although the old process has the admin API when the new
// one begins.
func TestRunIsUpgraded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("upgrades need Linux")
	}
	t.Setenv("AUTOMEMLIMIT", "0.5")
	tcp, _ := echoTCP(t, "a")
	at, admin := freeAddr(t), freeAddr(t)
	p := spawnRun(t, "--listen", at, "--to", tcp, "--address", admin)
	relaytest.Eventually(t, "the relay to listen", func() bool { return strings.Contains(p.text(), "service started") })
	out, problems, status := run(t, nil, "relay", "upgrade", "--address", admin)
	var pid, old int
	if _, err := fmt.Sscanf(out, "process %d has replaced process %d", &pid, &old); err != nil {
		t.Fatalf("status %d, %s%s", status, out, problems)
	}
	defer func() {
		process, err := os.FindProcess(pid)
		relaytest.Check(t, err)
		relaytest.Check(t, process.Kill())
	}()
	if got := ask(t, dial(t, "tcp", at), "x"); got != "a x" {
		t.Errorf("got %q", got)
	}
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// --print prints a Caddyfile that runs, and runs nothing.
func TestRunPrints(t *testing.T) {
	out, problems, status := run(t, nil, "relay", "run", "--print", "--listen", "8080,127.0.0.1:9090", "--to", "a.example:80, [2001:db8::1]:80", "--to", "b.example:80", "--udp",
		"--debug", "--address", "localhost", "--name", "two words", "--health-check=10s", "--health-check-http", `/health 2xx`, "--failback", "--event-hook", `notify "a b"`, "--event-hook-events", "backend_failed,backend_recovered", "--keepalive", "off", "--rescue", "16KiB")
	const want = `{
	debug
	admin localhost:2019
	persist_config off
	layer4 {
		relay+udp/:8080 relay+udp/127.0.0.1:9090 {
			route {
				relay a.example:80 [2001:db8::1]:80 b.example:80 {
					name "two words"
					health_check 10s {
						http /health 2xx
					}
					failback
					event_hook notify "a b" {
						events backend_failed backend_recovered
					}
					rescue 16KiB
					keepalive off
				}
			}
		}
	}
}
`
	if status != 0 || out != want {
		t.Errorf("status %d, %s%s\nwant %s", status, problems, out, want)
	}
	if _, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(out), map[string]any{"filename": "Caddyfile"}); err != nil || len(warnings) > 0 {
		t.Errorf("%v, %v", err, warnings)
	}
}

func TestRunFails(t *testing.T) {
	for _, test := range []struct {
		args string
		want []string
	}{
		{"", []string{"--listen: missing", "--to: missing"}},
		{"--listen :8080", []string{"--to: missing"}},
		{"--listen tcp/:8080 --to a --idle-timeout soon", []string{"--listen: must be an address without a network", `--to: "a": port is missing`, `--idle-timeout: must be a duration such as 5s, 10m or 1h, got "soon"`}},
		{"--listen localhost --to a:80", []string{"--listen: must be an address with a port"}},
		{"--listen :0 --to a:80", []string{"--listen: must be an address with a port"}},
		{"--listen :8080 --to a:80 --failback", []string{"failback: requires health_check"}},
		{"--listen :8080 --to a:80,a:80", []string{"listed twice"}},
		{"--listen :8080 --to a:80 --event-hook-timeout 1s", []string{"--event-hook-timeout: requires event_hook"}},
		{"--listen :8080 --to a:80 --hold 1s --hold 2s", []string{"given twice"}},
		{"--listen :8080 --to a:80 --health-check 5s", []string{`unexpected argument "5s": if it is the value of --health-check, write --health-check=5s`}},
		{"--listen :8080 a:80", []string{`unexpected argument "a:80": backends are given with --to`}},
		{"--lissten :8080", []string{`unknown flag: --lissten; did you mean "--listen"?`}},
		{"--listen :8080 --to a:80 --address https://a", []string{"plain HTTP"}},
	} {
		out, problems, status := run(t, nil, append([]string{"relay", "run", "--print"}, strings.Fields(test.args)...)...)
		for _, want := range test.want {
			if status != 1 || out != "" || !strings.Contains(problems, want) {
				t.Errorf("%s: status %d, %s%s, want %s", test.args, status, out, problems, want)
			}
		}
	}
}

// The command that the original's users try first is answered with the right one.
func TestAsyncRelayNamesItsFlag(t *testing.T) {
	_, problems, status := run(t, nil, "async-relay", "good.yaml")
	if status != 1 || !strings.Contains(problems, "caddy async-relay -c good.yaml") {
		t.Errorf("status %d, %s", status, problems)
	}
}
