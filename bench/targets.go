//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const loopback = "127.0.0.1"

// target is a relay to measure, or the direct path without one.
type target struct {
	name    string
	version string
	caddy   bool
	only    string // the only network that it relays; "" for both
	names   bool   // whether it resolves names of backends with a given resolver
	echoes  bool   // whether it answers by itself, without a backend
	// command writes the configuration and returns the command line. It is nil
	// for the direct path.
	command func(setup) ([]string, error)
}

// does reports whether the target can be measured in a row.
func (t target) does(r row) bool {
	switch {
	case r.group == loading:
		return t.caddy && !t.echoes
	case t.only != "" && t.only != r.network:
		return false
	case r.relayOnly && !t.names:
		return false
	case r.job.Gap > 0 && t.command == nil: // the clients would see the killed backend itself
		return false
	case t.echoes && r.backends != tcpEcho && r.backends != udpEcho:
		return false
	case r.backends == namedBackend:
		return t.names || t.command == nil
	case t.command == nil: // without a relay there is no memory to measure
		return r.metrics[0].key != "memory"
	}
	return true
}

// setup is the configuration of a target for one measurement.
type setup struct {
	dir       string
	network   string
	listen    string
	backends  []string // in order of preference
	resolver  string   // for their names; "" if they are addresses
	responses bool     // whether one answer ends a UDP session
	admin     string   // address of Caddy's admin API; "" if it is off
	services  int      // how many services the config has; 0 for one on the address listen
	relay     object   // more options of the relay
	killed    bool     // whether backends are killed during the measurement
}

func (b *bench) setup(r row) (setup, error) {
	s := setup{dir: b.dir, network: r.network, responses: r.responses, backends: b.ports.of(r.backends, b.turn), relay: r.relay, killed: r.job.Gap > 0}
	if len(s.backends) == 0 && !s.killed {
		return s, fmt.Errorf("no backends %q", r.backends)
	}
	if r.backends == namedBackend {
		s.resolver = b.ports.DNS
	}
	port, err := freePort(r.network, b.turn)
	if err != nil {
		return s, err
	}
	s.listen = net.JoinHostPort(loopback, strconv.Itoa(port))
	if r.group == loading {
		s.services = r.job.Count
	}
	if b.profile != "" || s.services > 0 {
		if port, err = freePort("tcp", b.turn+1000); err != nil {
			return s, err
		}
		s.admin = net.JoinHostPort(loopback, strconv.Itoa(port))
	}
	return s, nil
}

// findTargets builds the relay and finds the peers that are installed.
func findTargets(dir string) ([]target, error) {
	caddy := filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-o", caddy, "./cmd/caddy")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building the relay (run this from the root of the repository): %w", err)
	}
	version := firstMatch(`v\S+`, output("go", "list", "-m", "-f", "{{.Version}}", "github.com/mholt/caddy-l4"))
	targets := []target{
		{name: "direct"},
		{name: ours, caddy: true, names: true, command: func(s setup) ([]string, error) { return runCaddy(caddy, "relay+", s, relayHandler(s)) }},
		{name: "relay, plain", caddy: true, names: true, command: func(s setup) ([]string, error) { return runCaddy(caddy, "", s, relayHandler(s)) }},
		{name: "relay, portable", caddy: true, names: true, command: func(s setup) ([]string, error) {
			// This is what systems without event loops have.
			args, err := runCaddy(caddy, "relay+", s, relayHandler(s))
			return append([]string{"env", "RELAY_DISABLE=engine,batch,gso"}, args...), err
		}},
		{name: "caddy-l4 echo", version: version, caddy: true, echoes: true, command: func(s setup) ([]string, error) {
			return runCaddy(caddy, "", s, object{"handler": "echo"})
		}},
		{name: "caddy-l4 proxy", version: version, caddy: true, command: func(s setup) ([]string, error) { return runCaddy(caddy, "", s, proxyHandler(s)) }},
	}
	if haproxy := find("haproxy"); haproxy != "" {
		version := firstMatch(`\d+\.[\d.]+`, output(haproxy, "-v"))
		targets = append(targets,
			target{name: "haproxy", version: version, only: "tcp", command: func(s setup) ([]string, error) { return runHAProxy(haproxy, "", s) }},
			target{name: "haproxy splice", version: version, only: "tcp", command: func(s setup) ([]string, error) {
				return runHAProxy(haproxy, "  option splice-request\n  option splice-response\n", s)
			}})
	}
	if nginx := find("nginx"); nginx != "" {
		about := output(nginx, "-V")
		version := firstMatch(`\d+\.[\d.]+`, about)
		modules := strings.TrimPrefix(firstMatch(`--modules-path=\S+`, about), "--modules-path=")
		run := func(tuned bool) func(setup) ([]string, error) {
			return func(s setup) ([]string, error) { return runNginx(nginx, modules, tuned, s) }
		}
		targets = append(targets,
			target{name: "nginx", version: version, command: run(false)},
			target{name: "nginx tuned", version: version, command: run(true)})
	}
	return targets, nil
}

// find returns the path of a program, or "". It also searches where Debian installs
// servers.
func find(program string) string {
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	fmt.Fprintf(os.Stderr, "%s is not installed, leaving it out\n", program)
	return ""
}

func output(program string, args ...string) string {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return ""
	}
	return string(out)
}

func firstMatch(pattern, text string) string { return regexp.MustCompile(pattern).FindString(text) }

type object = map[string]any

func relayHandler(s setup) object {
	h := object{"handler": "relay", "name": "bench", "backends": s.backends, "connect_timeout": "1s"}
	if s.responses {
		h["udp_responses"] = 1
	}
	if s.network == "udp" {
		h["max_udp_sessions"] = 15_000
	}
	if s.resolver != "" {
		h["resolvers"] = []string{s.resolver}
	}
	maps.Copy(h, s.relay)
	return h
}

// proxyHandler returns the config of caddy-l4's proxy. It has no connect timeout and
// no limit on a session's answers, because caddy-l4 has no such options.
func proxyHandler(s setup) object {
	var upstreams []object
	for _, addr := range s.backends {
		upstreams = append(upstreams, object{"dial": []string{s.network + "/" + addr}})
	}
	h := object{"handler": "proxy", "upstreams": upstreams}
	if len(upstreams) > 1 {
		h["load_balancing"] = object{"selection": object{"policy": "first"}, "try_duration": "5s"}
		h["health_checks"] = object{"passive": object{"fail_duration": "30s"}}
	}
	return h
}

func runCaddy(binary, own string, s setup, handler object) ([]string, error) {
	admin := object{"disabled": true, "config": object{"persist": false}}
	if s.admin != "" {
		admin = object{"listen": s.admin, "config": object{"persist": false}}
	}
	server := object{
		"listen": []string{own + s.network + "/" + s.listen},
		"routes": []object{{"handle": []object{handler}}},
	}
	all := object{"bench": server}
	if s.services > 0 {
		all = servers(own, s, handler)
	}
	text, err := json.MarshalIndent(object{
		"admin": admin,
		"apps":  object{"layer4": object{"servers": all}},
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "caddy.json")
	return []string{binary, "run", "--config", file}, os.WriteFile(file, text, 0o600)
}

// runHAProxy sets maxconn to what 20,000 descriptors allow. A connection needs two,
// and a pipe for splice, of which there is one for four connections, needs two more.
func runHAProxy(binary, splice string, s setup) ([]string, error) {
	var c strings.Builder
	c.WriteString("global\n  nbthread 2\n  maxconn 6000\n")
	c.WriteString("defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 5m\n  timeout server 5m\n")
	c.WriteString("  balance first\n  option redispatch 1\n")
	retries, check := 2, ""
	switch {
	case s.killed && len(s.backends) == 1:
		retries = 20 // a client waits for the backend to come back, with an attempt a second
	case s.killed:
		check = " check inter 100ms fall 1 rise 1"
	}
	fmt.Fprintf(&c, "  retries %d\n", retries)
	fmt.Fprintf(&c, "listen bench\n  bind %s\n%s", s.listen, splice)
	for i, addr := range s.backends {
		fmt.Fprintf(&c, "  server s%d %s%s\n", i, addr, check)
	}
	file := filepath.Join(s.dir, "haproxy.cfg")
	return []string{binary, "-db", "-q", "-f", file}, os.WriteFile(file, []byte(c.String()), 0o600)
}

func runNginx(binary, modules string, tuned bool, s setup) ([]string, error) {
	listen, extra := s.listen, ""
	if s.network == "udp" {
		listen += " udp reuseport" // otherwise the workers take each other's clients
	} else {
		extra += "    proxy_half_close on;\n"
	}
	if tuned {
		listen += " rcvbuf=4m sndbuf=4m"
		extra += "    proxy_buffer_size 64k;\n"
	}
	if s.responses {
		extra += "    proxy_responses 1;\n"
	}
	var c strings.Builder
	if file := filepath.Join(modules, "ngx_stream_module.so"); exists(file) {
		fmt.Fprintf(&c, "load_module %s;\n", file)
	}
	fmt.Fprintf(&c, "daemon off;\nworker_processes 2;\npid %s/nginx.pid;\nerror_log %[1]s/nginx.log;\n", s.dir)
	c.WriteString("events {\n  worker_connections 16384;\n}\nstream {\n  upstream backends {\n    zone backends 64k;\n")
	for i, addr := range s.backends {
		backup := ""
		if i > 0 {
			backup = " backup"
		}
		if s.killed {
			backup += " max_fails=0" // else it refuses clients for 10 s once both have failed
		}
		fmt.Fprintf(&c, "    server %s%s;\n", addr, backup)
	}
	fmt.Fprintf(&c, "  }\n  server {\n    listen %s;\n    proxy_pass backends;\n    proxy_connect_timeout 1s;\n    proxy_timeout 5m;\n%s  }\n}\n", listen, extra)
	file := filepath.Join(s.dir, "nginx.conf")
	return []string{binary, "-e", filepath.Join(s.dir, "nginx.log"), "-c", file}, os.WriteFile(file, []byte(c.String()), 0o600)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
