package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/api"
)

// want fails the test unless a check has a line that contains all texts.
func want(t *testing.T, r []Check, status Status, check string, texts ...string) {
	t.Helper()
	for _, c := range r {
		line := c.Message + "; " + c.Advice
		if c.Check == check && c.Status == status && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			return
		}
	}
	t.Errorf("no %s of %s with %q in %+v", status, check, texts, r)
}

func configJSON(t *testing.T, text string) map[string]any {
	t.Helper()
	var config map[string]any
	relaytest.Check(t, json.Unmarshal([]byte(text), &config))
	return config
}

func TestPlan(t *testing.T) {
	p, err := planOf(configJSON(t, `{"apps": {
		"http": {"servers": {"web": {"listener_wrappers": [{"wrapper": "layer4", "routes": [{"handle": [{"handler": "relay", "name": "wrapped", "backends": ["a:1"]}]}]}]}}},
		"layer4": {"servers": {
			"one": {"listen": ["relay+tcp/:1", "relay+udp/:1"], "routes": [{"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "relay", "backends": ["b:1"]}]}]}]}]},
			"two": {"listen": [":2"], "routes": [{"handle": [{"handler": "echo"}]}]}
		}}}}`))
	if err != nil || p.String() != "2 relays, 2 listeners" || !slices.Equal(p.listen, []string{"relay+tcp/:1", "relay+udp/:1"}) {
		t.Errorf("%v, %v, %v", p, p.listen, err)
	}
	if p.relays[0].networks != nil || !slices.Equal(p.relays[1].networks, []string{"tcp", "udp"}) {
		t.Errorf("%+v", p.relays)
	}
	_, err = planOf(configJSON(t, `{"apps": {"layer4": {"servers": {"one": {"routes": [{"handle": [{"handler": "relay", "name": "x", "backends": ["b"], "hedge": 1}]}]}}}}}`))
	if err == nil || !strings.Contains(err.Error(), `service "x": backends:`) || !strings.Contains(err.Error(), "hedge") {
		t.Errorf("got %v", err)
	}
}

func TestSplitAddress(t *testing.T) {
	for address, want := range map[string][2]string{
		":80": {"tcp", ":80"}, "tcp/:80": {"tcp", ":80"}, "relay+udp/:80": {"udp", ":80"}, "RELAY+TCP/[::]:80": {"tcp", "[::]:80"}, "unix//x": {"", "/x"},
	} {
		if network, rest := splitAddress(address); network != want[0] || rest != want[1] {
			t.Errorf("%s: %q, %q", address, network, rest)
		}
	}
}

func TestPorts(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer ln.Close()
	busy := ln.Addr().String()
	e := &examination{ctx: t.Context(), plan: plan{listen: []string{"relay+tcp/" + busy, "relay+udp/" + busy, "relay+tcp/192.0.2.1:1", "unix//x", "tcp/x:y:z", "relay+tcp/" + busy}}}
	e.checkPorts()
	if len(e.checks) != 5 {
		t.Errorf("%d checks: %+v", len(e.checks), e.checks)
	}
	want(t, e.checks, StatusFail, "port", "relay+tcp/"+busy+": in use by ")
	if runtime.GOOS == "linux" {
		want(t, e.checks, StatusFail, "port", fmt.Sprintf("process %d", os.Getpid()), "stop that process, or choose another port")
	}
	want(t, e.checks, StatusOK, "port", "relay+udp/"+busy+": free")
	want(t, e.checks, StatusFail, "port", "this machine does not have the address")
	want(t, e.checks, StatusOK, "port", "unix//x: not checked")
	want(t, e.checks, StatusFail, "port", "x:y:z")

	e = &examination{ctx: t.Context(), plan: plan{listen: []string{"relay+tcp/" + busy}}, running: plan{listen: []string{"relay+tcp/" + busy}}}
	e.checkPorts()
	want(t, e.checks, StatusOK, "port", "in use by the running Caddy")

	_, port, _ := net.SplitHostPort(busy)
	n := 0
	_, _ = fmt.Sscan(port, &n)
	e = &examination{ctx: t.Context(), plan: plan{listen: []string{fmt.Sprintf("relay+tcp/127.0.0.1:%d-%d", n-1, n+1)}}}
	e.checkPorts()
	if len(e.checks) != 1 || e.checks[0].Status != StatusFail {
		t.Errorf("a range with a busy port: %+v", e.checks)
	}
}

// testResults is a Tester with the results of a table.
func testResults(results map[string]api.Test) Tester {
	return func(_ context.Context, _ caddyfile.Options, _ []string, b caddyfile.Backend) api.Test {
		return results[b.Text]
	}
}

func relayOf(name string, backends ...string) relay {
	return relay{options: caddyfile.Config{Name: name, Backends: backends}.Options()}
}

func TestBackends(t *testing.T) {
	good := api.Test{OK: true, Check: "connect", Dials: []api.TestedDial{{Network: "tcp", Address: "[2001:db8::1]:80", OK: true}}}
	slow := good
	slow.Lookup = 1500
	dead := api.Test{Dials: []api.TestedDial{{Network: "tcp", Address: "192.0.2.1:80", Error: "refused"}}}
	e := &examination{ctx: t.Context(), plan: plan{relays: []relay{
		relayOf("mixed", "good:80", "192.0.2.1:80", "unknown:80", "slow:80"),
		relayOf("dead", "192.0.2.2:80", "gone:80"),
	}}}
	e.Test = testResults(map[string]api.Test{
		"good:80": good, "slow:80": slow, "192.0.2.1:80": dead, "192.0.2.2:80": dead, "target:80": dead,
		"unknown:80": {Error: "no such host"}, "gone:80": {Error: "no such host"},
	})
	e.Targets = []string{"target:80", "nothing"}
	e.checkBackends()
	want(t, e.checks, StatusOK, "dns", "good: 2001:db8::1 after 0s")
	want(t, e.checks, StatusWarn, "dns", "slow: ", "after 1.5s")
	want(t, e.checks, StatusWarn, "dns", "unknown: no such host")
	want(t, e.checks, StatusFail, "dns", "gone: no such host")
	want(t, e.checks, StatusOK, "backend", "good:80 of mixed: tcp [2001:db8::1]:80 answered")
	want(t, e.checks, StatusWarn, "backend", "192.0.2.1:80 of mixed", "refused", "served by the other backends")
	want(t, e.checks, StatusWarn, "backend", "unknown:80 of mixed: its name has no address")
	want(t, e.checks, StatusFail, "backend", "192.0.2.2:80 of dead", "no backend of the service works")
	want(t, e.checks, StatusFail, "backend", "target:80: tcp 192.0.2.1:80: refused; start it, or correct the address")
	want(t, e.checks, StatusFail, "backend", `"nothing": port is missing`)
}

// fakeSystemctl makes a systemctl that prints a text the only one in PATH.
func fakeSystemctl(t *testing.T, text string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell script")
	}
	dir := t.TempDir()
	relaytest.Check(t, os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\nprintf '"+text+"'\n"), 0o700))
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func TestStop(t *testing.T) {
	check := func(shutdown time.Duration) []Check {
		r := relayOf("x", "a:80")
		r.options.ShutdownTimeout = shutdown
		e := &examination{ctx: t.Context(), plan: plan{relays: []relay{r}}}
		e.checkStop()
		return e.checks
	}
	const loaded = `LoadState=loaded\nTimeoutStopUSec=1min 30s\nLimitNOFILE=524288\n`
	fakeSystemctl(t, loaded+`Type=simple\n`)
	want(t, check(time.Minute), StatusOK, "stop", "shutdown_timeout 1m0s is below TimeoutStopSec 1m30s of caddy.service")
	want(t, check(2*time.Minute), StatusWarn, "stop", "is above TimeoutStopSec 1m30s", "TimeoutStopSec=125")
	fakeSystemctl(t, loaded+`Type=notify\n`)
	want(t, check(2*time.Minute), StatusOK, "stop", "Caddy asks systemd for that time")
	fakeSystemctl(t, `LoadState=loaded\nTimeoutStopUSec=infinity\nLimitNOFILE=1024\n`)
	want(t, check(time.Minute), StatusOK, "stop", "has no stop timeout")
	want(t, check(time.Minute), StatusWarn, "stop", "limits descriptors to 1024")

	fakeSystemctl(t, `LoadState=not-found\n`)
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
	want(t, check(time.Minute), StatusWarn, "stop", "terminationGracePeriodSeconds: 65")
	want(t, check(20*time.Second), StatusOK, "stop", "is below terminationGracePeriodSeconds")
}

func TestParseTimespan(t *testing.T) {
	for text, want := range map[string]time.Duration{"1min 30s": 90 * time.Second, "5s": 5 * time.Second, "500ms": 500 * time.Millisecond, "1h 2.5s": time.Hour + 2500*time.Millisecond, "2w": 14 * 24 * time.Hour} {
		if got, ok := parseTimespan(text); !ok || got != want {
			t.Errorf("%q: %s, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "infinity", "5 apples", "5", "s"} {
		if got, ok := parseTimespan(text); ok {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestUnitIn(t *testing.T) {
	for group, want := range map[string]string{
		"/system.slice/caddy.service":                                               "caddy.service",
		"/system.slice/caddy.service/sub":                                           "caddy.service",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/relay.service":     "relay.service",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope": "",
		"/": "", "": "", "/docker/0123": "",
	} {
		if got := unitIn(group); got != want {
			t.Errorf("%s: %q", group, got)
		}
	}
}

func TestDescriptors(t *testing.T) {
	e := &examination{ctx: t.Context()}
	e.checkDescriptors()
	if len(e.checks) != 1 || e.checks[0].Check != "descriptors" {
		t.Errorf("%+v", e.checks)
	}
	if runtime.GOOS != "linux" {
		return
	}
	r := relayOf("x", "a:80")
	r.options.MaxConnections = math.MaxInt32
	e = &examination{ctx: t.Context(), plan: plan{relays: []relay{r}}, pid: os.Getpid()}
	e.checkDescriptors()
	want(t, e.checks, StatusWarn, "descriptors", "limit of the running Caddy", "max_connections may need", "LimitNOFILE")
}

func TestSysctls(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has them")
	}
	e := &examination{ctx: t.Context(), plan: plan{listen: []string{"relay+udp/:1"}}}
	e.checkSysctls()
	want(t, e.checks, StatusOK, "sysctl", "tcp_migrate_req", "not needed")
	var names []string
	for _, c := range e.checks {
		names = append(names, strings.Fields(c.Message)[0])
	}
	if !slices.Contains(names, "net.ipv4.ip_local_port_range") || !strings.Contains(strings.Join(names, " "), "net.core.rmem_max") || !strings.Contains(strings.Join(names, " "), "net.core.wmem_max") {
		t.Errorf("checked %q", names)
	}
	e = &examination{ctx: t.Context(), plan: plan{listen: []string{"tcp/:1"}}}
	e.checkMigration()
	if c := e.checks[0]; c.Status == StatusOK && !strings.Contains(c.Message, "= 1") || c.Status == StatusWarn && !strings.Contains(c.Advice, "relay+tcp/") {
		t.Errorf("%+v", c)
	}
}

func TestClock(t *testing.T) {
	e := &examination{}
	e.checkClock()
	if len(e.checks) != 1 || e.checks[0].Check != "clock" || e.checks[0].Status == StatusFail {
		t.Errorf("%+v", e.checks)
	}
}

// Without a config file, that of the running Caddy is checked, then the Caddyfile of
// the working directory.
func TestConfigOfRunningCaddy(t *testing.T) {
	t.Chdir(t.TempDir())
	opts := Options{Admin: "here", Request: func(_, _ string, response any) error {
		return json.Unmarshal([]byte(`{"apps": {"layer4": {"servers": {"one": {"listen": ["relay+tcp/:1"], "routes": [{"handle": [{"handler": "relay", "backends": ["b:1"]}]}]}}}}}`), response)
	}}
	e := &examination{ctx: t.Context(), Options: opts}
	e.checkConfig()
	want(t, e.checks, StatusOK, "config", "the running Caddy at here: 1 relay, 1 listener")

	e = &examination{ctx: t.Context(), Options: Options{Admin: "here", Request: func(string, string, any) error { return errors.New("refused") }}}
	e.checkConfig()
	want(t, e.checks, StatusWarn, "config", "no Caddy at here, no Caddyfile here")

	relaytest.Check(t, os.WriteFile("Caddyfile", []byte("{\n\tadmin off\n}\n"), 0o600))
	e = &examination{ctx: t.Context()}
	e.checkConfig()
	want(t, e.checks, StatusOK, "config", "Caddyfile: 0 relays, 0 listeners")

	relaytest.Check(t, os.WriteFile("Caddyfile", []byte("{\n\tadmn off\n}\n"), 0o600))
	e = &examination{ctx: t.Context()}
	e.checkConfig()
	want(t, e.checks, StatusFail, "config", "Caddyfile:2")
}
