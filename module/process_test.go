package module_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Some tests need another process: one that can exit, that has few descriptors, or
// that is not Caddy. It is this test binary in another role.

const roleVariable = "RELAY_TEST_ROLE"

var roles = map[string]func(){
	"caddy": caddycmd.Main,
	"hold":  hold,
}

// process is another process.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	output string // the file with its output; empty: another file
	ended  chan struct{}
	err    error // of Wait; set before ended is closed
}

// spawn starts a process. The end of the test kills it.
func spawn(t *testing.T, role string, cmd *exec.Cmd) *process {
	t.Helper()
	output := filepath.Join(t.TempDir(), "output")
	file, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	p := spawnWith(t, role, cmd, file)
	p.output = output
	return p
}

// spawnWith is spawn with a file for the output of the process, which it closes.
func spawnWith(t *testing.T, role string, cmd *exec.Cmd, file *os.File) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{})}
	defer file.Close()
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
		if t.Failed() && p.output != "" {
			t.Logf("the process wrote:\n%s", p.text())
		}
	})
	return p
}

func (p *process) text() string {
	text, err := os.ReadFile(p.output)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// status waits for the end of the process and returns its exit status.
func (p *process) status() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(relaytest.Limit):
		p.t.Fatal("the process did not exit")
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.t.Fatal(p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
}

// caddyProcess is a Caddy in another process.
type caddyProcess struct {
	*server
	*process
}

// startProcess is start in another process. files is its descriptor limit; 0: the
// same as this process.
func startProcess(t *testing.T, layer4 string, files int) *caddyProcess {
	t.Helper()
	return newServer(t).startProcess(t, layer4, files)
}

// startProcess runs a config of the server in another process.
func (s *server) startProcess(t *testing.T, layer4 string, files int) *caddyProcess {
	t.Helper()
	config, err := s.adapt(layer4)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "run", "--config", path)
	if files > 0 {
		cmd = exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, files), self, "run", "--config", path)
	}
	p := &caddyProcess{server: s, process: spawn(t, "caddy", cmd)}
	p.waitRunning(t)
	return p
}

// waitRunning waits until the process has loaded its config, and handles signals.
func (p *caddyProcess) waitRunning(t *testing.T) {
	t.Helper()
	relaytest.Eventually(t, "the other Caddy to run", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("the process exited: %v", p.err)
		default:
		}
		answer, err := http.Get("http://" + p.admin + "/config/")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	waitSignals(t, p.admin)
}

// waitSignals waits until the Caddy with this admin API handles signals. It begins
// that in a goroutine of its own, which may run late on a busy machine. Until then
// SIGTERM kills it.
func waitSignals(t *testing.T, admin string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	relaytest.Eventually(t, "Caddy to handle signals", func() bool {
		answer, err := client.Get("http://" + admin + "/debug/pprof/goroutine?debug=2")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		stacks, _ := io.ReadAll(answer.Body)
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(stack, "caddy/v2.trapSignalsPosix.") && strings.Contains(stack, " [chan receive") {
				return true
			}
		}
		return false
	})
}

// awaitLines is lines, but waits until there are n. Another process writes its lines
// some time after what they are about.
func (p *caddyProcess) awaitLines(message string, n int) (found []map[string]any) {
	p.process.t.Helper()
	relaytest.Eventually(p.process.t, fmt.Sprintf("%d lines %q", n, message), func() bool {
		found = p.lines(message)
		return len(found) >= n
	})
	return found
}

// hold is a program other than Caddy. It listens on the given addresses, on TCP and
// UDP, until it is killed.
func hold() {
	for _, addr := range os.Args[1:] {
		if _, err := net.Listen("tcp", addr); err != nil {
			panic(err)
		}
		if _, err := net.ListenPacket("udp", addr); err != nil {
			panic(err)
		}
	}
	fmt.Println("holding")
	select {}
}

// startHolder starts another process that holds an address.
func startHolder(t *testing.T, addr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := spawn(t, "hold", exec.Command(self, addr))
	relaytest.Eventually(t, "the other process to listen", func() bool {
		lines := bufio.NewScanner(strings.NewReader(p.text()))
		return lines.Scan() && lines.Text() == "holding"
	})
}
