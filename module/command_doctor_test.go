package module_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/doctor"
)

// writeCaddyfile writes a Caddyfile with a layer4 block.
func writeCaddyfile(t *testing.T, layer4 string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	relaytest.Check(t, os.WriteFile(file, []byte("{\n\tlayer4 {\n"+layer4+"\n\t}\n}\n"), 0o600))
	return file
}

// The command checks a config, its ports, names and backends, and its exit status
// tells whether a check failed.
func TestDoctor(t *testing.T) {
	none := []string{"CADDY_ADMIN=" + freeAddr(t)}
	live, _ := echoTCP(t, "b")
	dead := freeAddr(t)
	good := writeCaddyfile(t, block("relay+tcp/"+freeAddr(t), fmt.Sprintf("%s %s {\n name two\n health_check {\n  send x\n  expect \"b x\"\n }\n }", dead, live)))
	out, problems, status := run(t, none, "relay", "doctor", "--config", good)
	for _, want := range []string{
		"ok    config       " + good + ": 1 relay, 1 listener\n", ": free\n", "ok    backend      " + live + " of two: tcp " + live + " answered after ", "(send and expect)",
		"warn  backend      " + dead + " of two: tcp " + dead + ": ", "clients are served by the other backends", "descriptors", "stop ", "clock",
	} {
		if status != 0 || problems != "" || !strings.Contains(out, want) {
			t.Errorf("status %d, %s%s\nwant %q", status, problems, out, want)
		}
	}

	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--config", writeCaddyfile(t, block("relay+tcp/"+freeAddr(t), dead))}, "fail  backend      " + dead + ": tcp "},
		{[]string{"--config", writeCaddyfile(t, block("relay+tcp/"+live, dead+" "+freeAddr(t)))}, "fail  port         relay+tcp/" + live + ": in use by "},
		{[]string{"--config", writeCaddyfile(t, block("relay+tcp/"+freeAddr(t), live+" {\n idle_timeout soon\n }"))}, "fail  config       "},
		{[]string{"--config", "missing"}, "fail  config       missing: open missing"},
		{[]string{dead}, "start it, or correct the address"},
	} {
		out, problems, status := run(t, none, append([]string{"relay", "doctor"}, test.args...)...)
		if status != 1 || !strings.Contains(out, test.want) || !strings.Contains(problems, "checks failed") {
			t.Errorf("%v: status %d, %s%s\nwant %q", test.args, status, problems, out, test.want)
		}
	}
}

// A running Caddy holds its ports itself.
func TestDoctorOnARunningCaddy(t *testing.T) {
	live, _ := echoTCP(t, "b")
	at := freeAddr(t)
	p := startProcess(t, block("relay+tcp/"+at, live), 0)
	out, problems, status := run(t, []string{"CADDY_ADMIN=" + p.admin}, "relay", "doctor", "--json")
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || status != 0 || !r.OK {
		t.Fatalf("status %d, %v, %s%s", status, err, problems, out)
	}
	found := ""
	for _, c := range r.Checks {
		found += fmt.Sprintf("%s %s %s\n", c.Status, c.Check, c.Message)
	}
	if runtime.GOOS == "linux" && !strings.Contains(found, fmt.Sprintf("process %d)", p.cmd.Process.Pid)) || runtime.GOOS == "linux" && !strings.Contains(found, "of the running Caddy") {
		t.Errorf("the process %d and its limit are not in\n%s", p.cmd.Process.Pid, found)
	}
	for _, want := range []string{"ok config the running Caddy at " + p.admin + ": 1 relay, 1 listener", "ok port relay+tcp/" + at + ": in use by the running Caddy (", "ok backend " + live} {
		if !strings.Contains(found, want) {
			t.Errorf("no %q in\n%s", want, found)
		}
	}
}
