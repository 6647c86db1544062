package module_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/version"
)

var update = flag.Bool("update", false, "update the output of commands in testdata")

// run runs a command of Caddy in another process until it exits.
func run(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(append(os.Environ(), roleVariable+"=caddy"), env...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	_ = cmd.Run() // the caller checks the status
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

// relay runs `caddy relay` on the server. It must succeed.
func (s *server) relay(args ...string) string {
	s.t.Helper()
	out, problems, status := run(s.t, []string{"CADDY_ADMIN=" + s.admin}, append([]string{"relay"}, args...)...)
	if status != 0 || problems != "" {
		s.t.Errorf("caddy relay %v: status %d, %s", args, status, problems)
	}
	return out
}

// varying lists what differs between runs, and its placeholder in testdata.
var varying = []struct {
	text        *regexp.Regexp
	placeholder string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`(client|requested by) 127\.0\.0\.1:\d+`), "$1 REMOTE"},
	{regexp.MustCompile(`\b[\d.e+]+ms\b`), "MS"},
	{regexp.MustCompile(`\bfor (another )?(\d+[hms])+`), "for ${1}SPAN"},
	{regexp.MustCompile(`\b(\d+[hms])+ ago`), "SPAN ago"},
	{regexp.MustCompile(`(stale +)(\d+[hms])+ +`), "${1}AGE  "},
}

// transcript collects the commands and their output, as in a terminal.
type transcript struct {
	s     *server
	names *strings.Replacer
	text  strings.Builder
}

func (tr *transcript) run(args ...string) {
	tr.s.t.Helper()
	text := fmt.Sprintf("$ caddy relay %s\n%s\n", strings.Join(args, " "), tr.s.relay(args...))
	text = tr.names.Replace(text)
	for _, v := range varying {
		text = v.text.ReplaceAllString(text, v.placeholder)
	}
	tr.text.WriteString(text)
}

// want compares the transcript with a file.
func (tr *transcript) want(file string) {
	tr.s.t.Helper()
	text := tr.text.String()
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			tr.s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		tr.s.t.Fatal(err)
	}
	if text != string(want) {
		tr.s.t.Errorf("%s has\n%s\nbut the commands print\n%s", file, want, text)
	}
}

// TestCommandsPrint checks the output of all commands, beginning before the first
// backend fails.
func TestCommandsPrint(t *testing.T) {
	live, _ := echoTCP(t, "b")
	dead, at, second, name, zz := freeAddr(t), freeAddr(t), freeAddr(t), unique("web"), unique("zz")
	dns := startNameServer(t, "127.0.0.2")
	s := start(t, block("relay+tcp/"+at, fmt.Sprintf("%s %s spare.test:80 {\n name %s\n resolvers %s\n }", dead, live, name, dns.addr))+
		block("relay+tcp/"+second, dead+" {\n name "+zz+"\n cooldown 1h\n }"))
	tr := &transcript{s: s, names: strings.NewReplacer(dead, "192.0.2.1:10001", live, "192.0.2.2:10002", name, "web", zz, "zz")}
	tr.run("status", name)
	tr.run("explain", name)
	conn := dial(t, "tcp", at)
	ask(t, conn, strings.Repeat("x", 1498)) // the answer has 1500 bytes
	relaytest.Eventually(t, "the bytes to be counted", func() bool { return s.service(name).Totals.BytesDown == 1500 })
	tr.run("status", name)
	tr.run("explain", name)
	tr.run("test", name, live)
	tr.run("drain", name, live)
	tr.run("status", name)
	tr.run("resume", name, live)
	tr.run("reset", name)
	s.test(name, "spare.test:80")
	tr.run("flush", "spare.test")
	tr.run("flush", "spare.test") // it is known, and stale already
	// One client is refused, because the only backend is dead. Its connection is
	// reset after it was established, or while Dial still runs.
	if conn, err := net.Dial("tcp", second); err == nil {
		_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
		_, _ = conn.Read(make([]byte, 1))
		conn.Close()
	}
	relaytest.Eventually(t, "the refused client to be counted", func() bool { return s.service(zz).Refused["no_backend"] == 1 })
	tr.run("status", zz)
	tr.want("testdata/commands.txt")

	all := s.relay("status")
	if first, second := strings.Index(all, name+": "), strings.Index(all, "\n\n"+zz+": "); first < 0 || second < first {
		t.Errorf("status of all: %s", all)
	}
	var v []apiService
	if text := s.relay("status", "--json"); json.Unmarshal([]byte(text), &v) != nil || len(v) < 2 || !strings.Contains(text, "\n  ") {
		t.Errorf("as JSON: %s", text)
	}
	if dns := s.relay("dns"); !regexp.MustCompile(`(?m)^spare.test +stale +\S+ +- +127\.0\.0\.2$`).MatchString(dns) {
		t.Errorf("dns: %s", dns)
	}
}

// Commands escape names in paths.
func TestCommandsTakeAnyName(t *testing.T) {
	live, _ := echoTCP(t, "b")
	names := []string{"..", "a/b", "100%2F", "a b?c#d"}
	var config strings.Builder
	for _, name := range names {
		config.WriteString(block("relay+tcp/"+freeAddr(t), fmt.Sprintf("%s [::1]:1 {\n name %q\n }", live, name)))
	}
	s := start(t, config.String())
	for _, name := range names {
		if out := s.relay("status", name); !strings.HasPrefix(out, name+": ") {
			t.Errorf("%q: %s", name, out)
		}
		s.relay("explain", name)
		s.relay("drain", name, "[::1]:1")
	}
}

func TestCommandsFail(t *testing.T) {
	live, _ := echoTCP(t, "b")
	dead, one, two := freeAddr(t), unique("one"), unique("two")
	s := start(t, block("relay+tcp/"+freeAddr(t), live+" {\n name "+one+"\n }")+block("relay+tcp/"+freeAddr(t), dead+" {\n name "+two+"\n }"))
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"status", "three"}, `unknown service "three" (have `},
		{[]string{"status", one[1:]}, fmt.Sprintf("did you mean %q?", one)},
		{[]string{"drain", one, "x" + live}, fmt.Sprintf("did you mean %q?", live)},
		{[]string{"drain", one, live}, "it is the last backend that takes new clients"},
		{[]string{"test", two, dead}, "backend " + dead + " failed the test"},
		{[]string{"flush", "unknown.test"}, "unknown.test: unknown, nothing flushed"},
		{[]string{"status", "--address", freeAddr(t)}, "refused: is Caddy running, is its admin endpoint there? Set its address with --address or $CADDY_ADMIN"},
		{[]string{"status", "--address", "unix//nowhere/admin.sock"}, "is Caddy running"},
		{[]string{"status", "--address", "https://" + s.admin}, "plain HTTP"},
		{[]string{"status", "--address", "x:y:z"}, "x:y:z"},
		{[]string{"explain"}, "received 0"},
		{[]string{"status", "--unknown"}, "unknown flag"},
		{[]string{"statsu"}, `unknown command "statsu" for "caddy relay"; did you mean "status"?`},
		{[]string{"paint"}, "caddy relay --help lists all"},
		{[]string{"status", "--adress", "x"}, `did you mean "--address"?`},
	} {
		_, problems, status := run(t, []string{"CADDY_ADMIN=" + s.admin}, append([]string{"relay"}, test.args...)...)
		if status != 1 || !strings.Contains(problems, test.want) || strings.Contains(problems, `{"error"`) {
			t.Errorf("%v: status %d, %s", test.args, status, problems)
		}
	}
}

// The admin endpoint may be a Unix socket. Requests then have no client address.
func TestCommandsOverAUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	if len(socket) > 100 {
		t.Skipf("the temporary directory's path is too long for a socket: %s", socket)
	}
	live, _ := echoTCP(t, "b")
	spare, name := freeAddr(t), unique("socket")
	s := newServer(t)
	s.admin = "unix/" + socket
	config, err := s.adapt(block("relay+tcp/"+freeAddr(t), live+" "+spare+" {\n name "+name+"\n }"))
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	for _, args := range [][]string{{"drain", name, live}, {"explain", name}} {
		out, problems, status := run(t, nil, append([]string{"relay", "--address", s.admin}, args...)...)
		if status != 0 || !strings.Contains(out, live) {
			t.Errorf("%v: status %d, %s", args, status, problems)
		}
		if args[0] == "explain" && !strings.Contains(out, "requested by unix socket") {
			t.Errorf("got %s", out)
		}
	}
}

// All ways to read the version agree.
func TestVersion(t *testing.T) {
	want := version.Get()
	for _, args := range [][]string{{"relay", "version"}, {"async-relay", "--version"}} {
		out, problems, status := run(t, nil, args...)
		if out != want.String()+"\n" || status != 0 {
			t.Errorf("%v: status %d, %q, %s; want %q", args, status, out, problems, want)
		}
	}
	modules, problems, status := run(t, nil, "list-modules", "--versions")
	line := regexp.MustCompile(`(?m)^layer4\.handlers\.relay( .*)?$`).FindString(modules)
	if status != 0 || line == "" {
		t.Errorf("status %d, %s: no relay in\n%s", status, problems, modules)
	}
	s := start(t, block("TCP/"+freeAddr(t), "127.0.0.1:1"))
	series := fmt.Sprintf("%sbuild_info{caddy=%q,caddy_l4=%q,goversion=%q,version=%q}", metricPrefix, want.Caddy, want.CaddyL4, want.Go, want.Relay)
	if s.scrape()[series] != 1 {
		t.Errorf("no series %s", series)
	}
}

// The address of the admin API may be a URL.
func TestCommandsTakeAURL(t *testing.T) {
	live, _ := echoTCP(t, "b")
	name := unique("url")
	s := start(t, block("relay+tcp/"+freeAddr(t), live+" {\n name "+name+"\n }"))
	for _, address := range []string{"http://" + s.admin, "http://" + s.admin + "/", "tcp/" + s.admin} {
		out, problems, status := run(t, nil, "relay", "status", name, "--address", address)
		if status != 0 || !strings.Contains(out, live) {
			t.Errorf("%s: status %d, %s", address, status, problems)
		}
	}
}

// Shells complete services and backends of the running Caddy. Without one there is
// nothing to complete, and no error.
func TestCompletion(t *testing.T) {
	live, _ := echoTCP(t, "b")
	name := unique("complete")
	s := start(t, block("relay+tcp/"+freeAddr(t), live+" spare.test:80 {\n name "+name+"\n }"))
	for _, test := range []struct {
		args []string
		want []string // in any order, among others if the first is "..."
	}{
		{[]string{"status", ""}, []string{"...", name}},
		{[]string{"status", name, ""}, nil},
		{[]string{"drain", name, ""}, []string{live, "spare.test:80"}},
		{[]string{"drain", "unknown", ""}, nil},
		{[]string{"drill", name, live, ""}, []string{"refuse", "silent", "reset", "slow"}},
		{[]string{"reset", "--address", freeAddr(t), ""}, nil},
		{[]string{"convert", "--to", ""}, []string{"caddyfile", "json"}},
	} {
		out, problems, status := run(t, []string{"CADDY_ADMIN=" + s.admin}, append([]string{"__complete", "relay"}, test.args...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		offered := lines[:len(lines)-1] // the last line is the directive, such as ":4"
		if status != 0 || !strings.HasPrefix(lines[len(lines)-1], ":") {
			t.Errorf("%v: status %d, %s%s", test.args, status, out, problems)
		}
		if among := len(test.want) > 0 && test.want[0] == "..."; among {
			if !slices.Contains(offered, test.want[1]) {
				t.Errorf("%v: offered %q, want %q", test.args, offered, test.want)
			}
		} else if !slices.Equal(offered, test.want) && len(offered)+len(test.want) > 0 {
			t.Errorf("%v: offered %q, want %q", test.args, offered, test.want)
		}
	}
}
