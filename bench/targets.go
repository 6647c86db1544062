//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

const loopback = "127.0.0.1"

// target is a relay to measure, or the direct path without one.
type target struct {
	name    string
	version string
	caddy   bool
	quick   bool   // whether -quick measures it
	only    string // the only network that it relays; "" for both
	names   bool   // whether it resolves names of backends with a given resolver
	echoes  bool   // whether it answers by itself, without a backend
	keeps   bool   // whether it has no limit of UDP sessions, and none ends during a measurement
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
		return r.metrics[0].keys[0] != "memory"
	}
	return true
}

// relayProgram returns the path of the relay that buildRelay builds.
func relayProgram(dir string) string { return filepath.Join(dir, "caddy") }

func buildRelay(dir string) error {
	build := exec.Command("go", "build", "-o", relayProgram(dir), "./cmd/caddy")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the relay (run this from the root of the repository): %w", err)
	}
	return nil
}

// findTargets returns the relay, which has been built, and the peers that are installed.
func findTargets(o options, dir string) []target {
	caddy := relayProgram(dir)
	version := firstMatch(`v\S+`, output("go", "list", "-m", "-f", "{{.Version}}", "github.com/mholt/caddy-l4"))
	targets := []target{
		{name: "direct", quick: true},
		{name: ours, caddy: true, quick: true, names: true, command: func(s setup) ([]string, error) { return runCaddy(caddy, "relay+", s, relayHandler) }},
		{name: "relay, plain", caddy: true, names: true, command: func(s setup) ([]string, error) { return runCaddy(caddy, "", s, relayHandler) }},
		{name: portable, caddy: true, quick: true, names: true, command: func(s setup) ([]string, error) {
			// This is what systems without event loops have.
			args, err := runCaddy(caddy, "", s, relayHandler)
			return append([]string{"env", "RELAY_DISABLE=engine,batch,gso"}, args...), err
		}},
		{name: "caddy-l4 echo", version: version, caddy: true, echoes: true, command: func(s setup) ([]string, error) { return runCaddy(caddy, "", s, echoHandler) }},
		{name: proxy, version: version, caddy: true, quick: true, keeps: true, command: func(s setup) ([]string, error) { return runCaddy(caddy, "", s, proxyHandler) }},
	}
	if program := find(o.haproxy); program != "" {
		version := firstMatch(`\d+\.\d\S*`, output(program, "-v"))
		targets = append(targets,
			target{name: "haproxy", version: version, only: "tcp", command: func(s setup) ([]string, error) { return runHAProxy(program, "", s) }},
			target{name: haproxy, version: version, only: "tcp", quick: true, command: func(s setup) ([]string, error) {
				return runHAProxy(program, "  option splice-request\n  option splice-response\n", s)
			}})
	}
	if program := find(o.nginx); program != "" {
		about := output(program, "-V")
		version := firstMatch(`\d+\.[\d.]+`, about)
		modules := strings.TrimPrefix(firstMatch(`--modules-path=\S+`, about), "--modules-path=")
		run := func(tuned bool) func(setup) ([]string, error) {
			return func(s setup) ([]string, error) { return runNginx(program, modules, tuned, s) }
		}
		targets = append(targets,
			target{name: "nginx", version: version, command: run(false)},
			target{name: nginx, version: version, quick: true, command: run(true)})
	}
	return targets
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
