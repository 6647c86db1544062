package module_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// pipedProcess is a Caddy in another process whose log is a pipe.
type pipedProcess struct {
	*process
	*server
	config  string   // the file of its config
	log     *os.File // the test's end of the pipe
	relayed atomic.Int64
	dropped atomic.Int64 // the sum of the field count
}

// startPiped starts a Caddy whose log is a pipe that is not read. global are
// global options.
func startPiped(t *testing.T, global, layer4 string) *pipedProcess {
	t.Helper()
	s := &server{t: t, admin: freeAddr(t)}
	text := fmt.Sprintf("{\n admin %s\n persist_config off\n %s\n layer4 {\n%s\n}\n}\n", s.admin, global, layer4)
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	relaytest.Check(t, err)
	path := filepath.Join(t.TempDir(), "config.json")
	relaytest.Check(t, os.WriteFile(path, config, 0o600))
	self, err := os.Executable()
	relaytest.Check(t, err)
	reader, writer, err := os.Pipe()
	relaytest.Check(t, err)
	t.Cleanup(func() { reader.Close() })
	cmd := exec.Command(self, "run", "--config", path)
	p := &pipedProcess{server: s, config: path, log: reader}
	p.process = spawnWith(t, "caddy", cmd, writer)
	return p
}

// read reads the log until the process ends.
func (p *pipedProcess) read() {
	go func() { // ends with the process, or with the test
		lines := bufio.NewScanner(p.log)
		for lines.Scan() {
			text := lines.Text()
			var count int64
			switch _, after, _ := strings.Cut(text, `"log lines dropped"`); {
			case strings.Contains(text, `"msg":"relayed"`):
				p.relayed.Add(1)
			case after != "":
				_, _ = fmt.Sscanf(after, `,"count":%d`, &count)
				p.dropped.Add(count)
			}
		}
	}()
}

// serves checks that clients are served, each at once.
func (p *pipedProcess) serves(t *testing.T, at string, clients int) {
	t.Helper()
	for i := range clients {
		conn, err := net.DialTimeout("tcp", at, relaytest.Limit)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
		if got := ask(t, conn, "x"); got != "b x" {
			t.Fatalf("client %d: got %q", i, got)
		}
		conn.Close()
	}
}

// A log that is not read stops nothing. It gets all lines that were not dropped
// when it is read again.
func TestLogThatIsNotRead(t *testing.T) {
	for _, n := range []networks{ours, caddys} {
		t.Run(n.tcp, func(t *testing.T) {
			const clients, more = 10_000, 50
			backend, _ := echoTCP(t, "b")
			echoUDP(t, "b", backend)
			at, other := freeAddr(t), freeAddr(t)
			p := startPiped(t, "", block(n.tcp+"/"+at+" "+n.udp+"/"+at, backend+" {\n access_log all\n idle_timeout 1m\n }")+
				block(n.tcp+"/"+other, backend))
			dial(t, "tcp", at).Close() // waits for the start
			p.serves(t, at, clients-1)
			p.serves(t, other, more)
			if got := keepAsking(t, dial(t, "udp", at), "x"); got != "b x" {
				t.Errorf("UDP: got %q", got)
			}
			const metric = metricPrefix + "log_lines_dropped_total"
			var dropped float64
			relaytest.Eventually(t, "dropped lines in the metrics", func() bool { dropped = p.scrape()[metric]; return dropped > 0 })

			p.read()
			relaytest.Eventually(t, "each line to be read or counted", func() bool { return p.relayed.Load()+p.dropped.Load() == clients })
			if now := p.scrape()[metric]; p.dropped.Load() != int64(now) || now < dropped {
				t.Errorf("the log says that %d lines were dropped, the metrics %v", p.dropped.Load(), now)
			}
			p.serves(t, at, more)
			p.terminate() // right after the last line
			if status := p.status(); status != 0 {
				t.Errorf("status %d", status)
			}
			relaytest.Eventually(t, "the last lines", func() bool { return p.relayed.Load()+p.dropped.Load() >= clients+more })
		})
	}
}

// A log that is not read does not delay another one.
func TestOneLogThatIsNotRead(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	access := filepath.Join(t.TempDir(), "access")
	global := fmt.Sprintf("log access {\n include %s\n output file %q\n format json\n }\n log other {\n include layer4.handlers.relay\n level DEBUG\n output stderr\n }\n log default {\n output discard\n }\n", accessLogger, access)
	p := startPiped(t, global, block("relay+tcp/"+at, backend+" {\n access_log tcp\n }"))
	dial(t, "tcp", at).Close()
	const clients = 1000
	p.serves(t, at, clients-1)
	relaytest.Eventually(t, "all lines in the access log", func() bool { return len(logged(t, access)) == clients })
}

// The lines of Caddy and layer4 on stderr or stdout do not wait either, and
// likewise those of any log with the output relay_queue. The admin API, reloads and
// the exit work while the log is not read.
func TestCaddysLogThatIsNotRead(t *testing.T) {
	for name, global := range map[string]string{
		"without a log block": "",
		"debug":               "debug",
		"stdout":              "log {\n output stdout\n level DEBUG\n }",
		"relay_queue":         "log {\n output relay_queue\n level DEBUG\n }",
	} {
		t.Run(name, func(t *testing.T) {
			backend, _ := echoTCP(t, "b")
			at := freeAddr(t)
			p := startPiped(t, global, block("tcp/"+at, backend+" {\n access_log tcp\n }"))
			dial(t, "tcp", at).Close()
			p.serves(t, at, 1000)
			p.works(t, "/relay/services", 500)
			p.works(t, "/metrics", 10)
			config, err := os.ReadFile(p.config)
			relaytest.Check(t, err)
			for range 3 {
				relaytest.Check(t, p.post("/load", "application/json", config))
			}
			p.serves(t, at, 100)
			p.terminate()
			if status := p.status(); status != 0 {
				t.Errorf("status %d", status)
			}
		})
	}
}

// The same holds for `caddy async-relay`.
func TestAsyncRelayWhoseLogIsNotRead(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	reader, writer, err := os.Pipe()
	relaytest.Check(t, err)
	defer reader.Close()
	a := startAsyncRelayWith(t, writer, backend, "", "--log-level", "DEBUG")
	p := &pipedProcess{server: &server{t: t, admin: os.Getenv("CADDY_ADMIN")}, process: a.process, log: reader}
	dial(t, "tcp", a.at).Close()
	p.serves(t, a.at, 4000)
	p.works(t, "/relay/services", 500)
	p.read()
	relaytest.Eventually(t, "the line about dropped lines", func() bool { return p.dropped.Load() > 0 })
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// works makes requests to the admin API, each of which has a line in Caddy's log.
func (p *pipedProcess) works(t *testing.T, path string, requests int) {
	t.Helper()
	client := &http.Client{Timeout: relaytest.Limit}
	for i := range requests {
		answer, err := client.Get("http://" + p.admin + path)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
}
