//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// setup is the configuration of a target for one measurement.
type setup struct {
	dir       string
	network   string
	services  []service
	resolver  string // for names of backends; "" if they are addresses
	responses bool   // whether one answer ends a UDP session
	full      bool   // whether the table of UDP sessions is full all the time
	admin     string // address of Caddy's admin API; "" if it is off
	relay     object // more options of the relay
	killed    bool   // whether backends are killed during the measurement
	oneCore   bool   // whether the target runs on one CPU
	files     uint64 // limit of open files
}

// service is a listener with its backends.
type service struct {
	listen   string
	both     bool     // whether it listens on TCP and UDP
	backends []string // in order of preference
}

func relayHandler(s setup, i int) object {
	name := "bench"
	if len(s.services) > 1 {
		name += strconv.Itoa(i)
	}
	h := object{"handler": "relay", "name": name, "backends": s.services[i].backends, "connect_timeout": "1s"}
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
func proxyHandler(s setup, i int) object {
	var upstreams []object
	for _, addr := range s.services[i].backends {
		upstreams = append(upstreams, object{"dial": []string{s.network + "/" + addr}})
	}
	h := object{"handler": "proxy", "upstreams": upstreams}
	if len(upstreams) > 1 {
		h["load_balancing"] = object{"selection": object{"policy": "first"}, "try_duration": "5s"}
		h["health_checks"] = object{"passive": object{"fail_duration": "30s"}}
	}
	return h
}

func echoHandler(setup, int) object { return object{"handler": "echo"} }

// runCaddy puts own in front of the networks of its listeners.
func runCaddy(binary, own string, s setup, handler func(setup, int) object) ([]string, error) {
	admin := object{"disabled": true, "config": object{"persist": false}}
	if s.admin != "" {
		admin = object{"listen": s.admin, "config": object{"persist": false}}
	}
	servers := object{}
	for i, one := range s.services {
		listen := []string{own + s.network + "/" + one.listen}
		if one.both {
			listen = []string{own + "tcp/" + one.listen, own + "udp/" + one.listen}
		}
		servers["bench"+strconv.Itoa(i)] = object{"listen": listen, "routes": []object{{"handle": []object{handler(s, i)}}}}
	}
	text, err := json.MarshalIndent(object{
		"admin": admin,
		"apps":  object{"layer4": object{"servers": servers}},
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "caddy.json")
	return []string{binary, "run", "--config", file}, os.WriteFile(file, text, 0o600)
}

// runHAProxy sets maxconn to what the descriptors allow: two for a connection, and one for
// a listener, and two for each of the pipes, which are enough for 64 streams in both
// directions.
func runHAProxy(binary, splice string, s setup) ([]string, error) {
	var c strings.Builder
	threads := 2
	if s.oneCore {
		threads = 1
	}
	fmt.Fprintf(&c, "global\n  nbthread %d\n  maxpipes 150\n  maxconn %d\n", threads, (s.files-800-uint64(len(s.services)))/2)
	c.WriteString("defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 5m\n  timeout server 5m\n")
	c.WriteString("  balance first\n  option redispatch 1\n")
	for n, one := range s.services {
		retries, check := 2, ""
		switch {
		case s.killed && len(one.backends) == 1:
			retries = 20 // a client waits for the backend to come back, with an attempt a second
		case s.killed:
			check = " check inter 100ms fall 1 rise 1"
		}
		fmt.Fprintf(&c, "listen bench%d\n  bind %s\n%s  retries %d\n", n, one.listen, splice, retries)
		for i, addr := range one.backends {
			fmt.Fprintf(&c, "  server s%d %s%s\n", i, addr, check)
		}
	}
	file := filepath.Join(s.dir, "haproxy.cfg")
	return []string{binary, "-db", "-q", "-f", file}, os.WriteFile(file, []byte(c.String()), 0o600)
}

func runNginx(binary, modules string, tuned bool, s setup) ([]string, error) {
	options, extra, timeout, workers := "", "", "5m", 2
	if s.network == "udp" {
		options += " udp reuseport" // otherwise the workers take each other's clients
	} else {
		extra += "    proxy_half_close on;\n"
	}
	if tuned {
		options += " rcvbuf=4m sndbuf=4m"
		extra += "    proxy_buffer_size 64k;\n"
	}
	if s.responses {
		extra += "    proxy_responses 1;\n"
	}
	if s.full {
		timeout = "300ms" // at 33,000 sessions a second, that is a table of 10,000
	}
	if s.oneCore {
		workers = 1
	}
	var c strings.Builder
	if file := filepath.Join(modules, "ngx_stream_module.so"); exists(file) {
		fmt.Fprintf(&c, "load_module %s;\n", file)
	}
	fmt.Fprintf(&c, "daemon off;\nworker_processes %d;\npid %s/nginx.pid;\nerror_log %[2]s/nginx.log;\n", workers, s.dir)
	c.WriteString("events {\n  worker_connections 32768;\n}\nstream {\n")
	for n, one := range s.services {
		fmt.Fprintf(&c, "  upstream backends%d {\n    zone backends%[1]d 64k;\n", n)
		for i, addr := range one.backends {
			backup := ""
			if i > 0 {
				backup = " backup"
			}
			if s.killed {
				backup += " max_fails=0" // else it refuses clients for 10 s once both have failed
			}
			fmt.Fprintf(&c, "    server %s%s;\n", addr, backup)
		}
		fmt.Fprintf(&c, "  }\n  server {\n    listen %s%s;\n    proxy_pass backends%d;\n    proxy_connect_timeout 1s;\n    proxy_timeout %s;\n%s  }\n",
			one.listen, options, n, timeout, extra)
	}
	c.WriteString("}\n")
	file := filepath.Join(s.dir, "nginx.conf")
	return []string{binary, "-e", filepath.Join(s.dir, "nginx.log"), "-c", file}, os.WriteFile(file, []byte(c.String()), 0o600)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
