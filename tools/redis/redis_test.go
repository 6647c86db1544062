// Package redis tests a fleet of relays over a Redis server. It is a module of its
// own, so that the storage module for Redis is no dependency of the relay.
package redis

import (
	"bytes"
	"encoding/json"
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
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"
	_ "github.com/pberkel/caddy-storage-redis"

	_ "github.com/async-relay/caddy-relay"
)

// asCaddy is the environment variable that makes this program a Caddy.
const asCaddy = "RELAY_TEST_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// limit is how long a test waits for what must happen.
const limit = 30 * time.Second

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// freePort returns a port of 127.0.0.1 that is free now.
func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// start starts a process, which the end of the test kills.
func start(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	dir := t.TempDir()
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asCaddy+"=1", "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", filepath.Base(name), output.String())
		}
	})
	return cmd
}

// startRedis starts a Redis server and returns its port.
func startRedis(t testing.TB) (port string, server *exec.Cmd) {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("needs redis-server")
	}
	port = freePort(t)
	server = start(t, program, "--port", port, "--bind", "127.0.0.1", "--save", "")
	eventually(t, "redis", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return port, server
}

// node is a relay in another process.
type node struct {
	t           *testing.T
	admin, addr string
}

func startNode(t *testing.T, redis, name string, backends ...string) *node {
	t.Helper()
	n := &node{t, "127.0.0.1:" + freePort(t), "127.0.0.1:" + freePort(t)}
	text := fmt.Sprintf(`{
	admin %s
	persist_config off
	storage redis {
		host 127.0.0.1
		port %s
	}
	relay {
		share test
		instance %s
	}
	layer4 {
		relay+tcp/%s {
			route {
				relay %s {
					name web
				}
			}
		}
	}
}
`, n.admin, redis, name, n.addr, strings.Join(backends, " "))
	file := filepath.Join(t.TempDir(), "Caddyfile")
	check(t, os.WriteFile(file, []byte(text), 0o600))
	self, err := os.Executable()
	check(t, err)
	start(t, self, "run", "--config", file, "--adapter", "caddyfile")
	eventually(t, "the node", func() bool {
		answer, err := http.Get("http://" + n.admin + "/relay/fleet")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusOK
	})
	return n
}

// request makes a request to the admin API of the node.
func (n *node) request(method, path string, v any) {
	n.t.Helper()
	r, err := http.NewRequest(method, "http://"+n.admin+"/relay/"+path, nil)
	check(n.t, err)
	answer, err := http.DefaultClient.Do(r)
	check(n.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	check(n.t, err)
	if answer.StatusCode != http.StatusOK {
		n.t.Fatalf("%s %s: %s %s", method, path, answer.Status, text)
	}
	if v != nil {
		check(n.t, json.Unmarshal(text, v))
	}
}

// fleet is the response of the API, as far as the test looks at it.
type fleet struct {
	Nodes   []struct{ Node string }
	Storage struct{ Error string }
}

func (n *node) fleet() (f fleet) {
	n.t.Helper()
	n.request("GET", "fleet", &f)
	return f
}

// backend returns the state of a backend, and whether it is a suspect.
func (n *node) backend(address string) (state string, suspect bool) {
	n.t.Helper()
	var s struct {
		Backends []struct {
			Address, State string
			Networks       map[string]struct{ Suspect bool }
		}
	}
	n.request("GET", "services/web", &s)
	for _, b := range s.Backends {
		if b.Address == address {
			return b.State, b.Networks["tcp"].Suspect
		}
	}
	n.t.Fatal("no backend " + address)
	return "", false
}

// Two nodes share demotions and operations over Redis. While it is frozen, and while
// it does not run, each continues alone, and afterwards they agree again.
func TestFleetOverRedis(t *testing.T) {
	port, server := startRedis(t)
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer backend.Close()
	go func() { // ends with the listener
		for {
			conn, err := backend.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("hello"))
			conn.Close()
		}
	}()
	dead, live := "127.0.0.1:"+freePort(t), backend.Addr().String()
	ann, bob := startNode(t, port, "ann", dead, live), startNode(t, port, "bob", dead, live)
	for _, n := range []*node{ann, bob} {
		eventually(t, "the other node", func() bool { return len(n.fleet().Nodes) == 1 })
	}

	client, err := net.Dial("tcp", ann.addr)
	check(t, err)
	defer client.Close()
	if text, err := io.ReadAll(client); err != nil || string(text) != "hello" {
		t.Fatalf("got %q, %v", text, err)
	}
	eventually(t, "a suspect on bob", func() bool {
		state, suspect := bob.backend(dead)
		return state == "up" && suspect
	})
	began := time.Now()
	ann.request("POST", "services/web/backends/"+live+"/drain", nil)
	eventually(t, "the drain on bob", func() bool { state, _ := bob.backend(live); return state == "draining" })
	t.Logf("the drain was repeated after %s", time.Since(began).Round(time.Millisecond))

	check(t, server.Process.Signal(syscall.SIGSTOP))
	eventually(t, "an error of the storage", func() bool { return ann.fleet().Storage.Error != "" && bob.fleet().Storage.Error != "" })
	bob.request("POST", "services/web/backends/"+live+"/resume", nil)
	if state, _ := ann.backend(live); state != "draining" {
		t.Errorf("the backend is %s on ann, whose storage is frozen", state)
	}
	check(t, server.Process.Signal(syscall.SIGCONT))
	eventually(t, "the resume on ann", func() bool { state, _ := ann.backend(live); return state == "up" })
	eventually(t, "the end of the errors", func() bool { return ann.fleet().Storage.Error == "" && bob.fleet().Storage.Error == "" })
}
