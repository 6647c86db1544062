package module_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
)

// These tests run a whole Caddy in this process, one at a time, because a process
// can have only one.

func TestMain(m *testing.M) {
	if role := roles[os.Getenv(roleVariable)]; role != nil {
		role() // this process was started by a test
		return
	}
	dir, err := os.MkdirTemp("", "relay-test")
	if err != nil {
		panic(err)
	}
	os.Setenv("XDG_CONFIG_HOME", dir)
	os.Setenv("XDG_DATA_HOME", dir)
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// networks are the names of the networks that tests listen on.
type networks struct{ tcp, udp string }

var (
	caddys = networks{"tcp", "udp"}
	ours   = networks{"relay+tcp", "relay+udp"}
)

// over holds the networks that replace TCP/ and UDP/ in the configs of tests.
var over = ours

// overBoth runs a test over Caddy's networks and over ours.
func overBoth(t *testing.T, test func(t *testing.T)) {
	for _, n := range []networks{caddys, ours} {
		t.Run(n.tcp+","+n.udp, func(t *testing.T) {
			defer func(before networks) { over = before }(over)
			over = n
			test(t)
		})
	}
}

// server is a running Caddy.
type server struct {
	t     *testing.T
	admin string
	log   string // the log file
	more  string // global options of all its configs
}

// ports are the ports of this process. A process in another role needs none.
var ports = func() *relaytest.Ports {
	if os.Getenv(roleVariable) != "" {
		return new(relaytest.Ports)
	}
	return relaytest.ClaimPorts()
}()

// freePort returns a port that is free on all addresses, for TCP and UDP.
func freePort(t *testing.T) int {
	t.Helper()
	return ports.Free(t)
}

func freeAddr(t *testing.T) string { return fmt.Sprintf("127.0.0.1:%d", freePort(t)) }

func newServer(t *testing.T) *server {
	return &server{t: t, admin: freeAddr(t), log: filepath.Join(t.TempDir(), "log")}
}

// start runs a config whose layer4 block is given as Caddyfile text.
func start(t *testing.T, layer4 string) *server {
	t.Helper()
	return startWith(t, "", layer4)
}

// startWith is start with more global options, which reloads keep.
func startWith(t *testing.T, more, layer4 string) *server {
	t.Helper()
	return startWithApps(t, "", more, layer4)
}

// startWithApps is startWith with more apps, as JSON, in the first config.
func startWithApps(t *testing.T, apps, more, layer4 string) *server {
	t.Helper()
	s := newServer(t)
	s.more = more
	config, err := s.adapt(layer4)
	if err != nil {
		t.Fatal(err)
	}
	if apps != "" {
		config = bytes.Replace(config, []byte(`"apps":{`), []byte(`"apps":{`+apps+`,`), 1)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// stop stops Caddy. It may be called again.
func (s *server) stop() error {
	http.DefaultClient.CloseIdleConnections()
	return caddy.Stop()
}

func (s *server) adapt(layer4 string) ([]byte, error) {
	text := fmt.Sprintf("{\n admin %s\n persist_config off\n log relay {\n include layer4.handlers.relay\n output file %s {\n roll_disabled\n }\n level DEBUG\n format json\n }\n log default {\n exclude layer4.handlers.relay\n level WARN\n }\n%s\n layer4 {\n%s\n}\n}\n", s.admin, s.log, s.more, layer4)
	text = strings.NewReplacer("TCP/", over.tcp+"/", "UDP/", over.udp+"/").Replace(text)
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			s.t.Log(w)
		}
	}
	return config, err
}

// reload loads another config through the admin API and returns its error.
func (s *server) reload(layer4 string) error {
	config, err := s.adapt(layer4)
	if err != nil {
		return err
	}
	return s.post("/load", "application/json", config)
}

// post makes a request to the admin API. A status other than 200 is an error.
func (s *server) post(path, contentType string, body []byte) error {
	_, err := s.request(path, contentType, body)
	return err
}

// request makes a request to the admin API and returns the response. Each reload
// replaces the listener of the admin API and resets the connections in its queue.
// Such a request was not handled, so it is repeated. So is one that has reached a process that
// was replaced.
func (s *server) request(path, contentType string, body []byte) (text []byte, err error) {
	for range 20 {
		var again bool
		if text, again, err = s.requestOnce(path, contentType, body); !again {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return text, err
}

// requestOnce is request without a repetition. again reports that the request did not reach
// the process that has the listening sockets.
func (s *server) requestOnce(path, contentType string, body []byte) (text []byte, again bool, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Post("http://"+s.admin+path, contentType, bytes.NewReader(body))
	if err != nil {
		return nil, true, err
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return text, answer.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text), "repeat the request"), err
}

// lines returns the lines of the relay's log with that message.
func (s *server) lines(message string) (found []map[string]any) {
	for _, fields := range logged(s.t, s.log) {
		if fields["msg"] == message && fields["logger"] == "layer4.handlers.relay" {
			found = append(found, fields)
		}
	}
	return found
}

// logged returns all lines of a log file.
func logged(t *testing.T, path string) (all []map[string]any) {
	if !module.FlushLogs() {
		t.Error("the logs do not get their lines")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil {
			all = append(all, fields)
		}
	}
	return all
}

// echoTCP starts a backend that answers with its name and what it received.
func echoTCP(t *testing.T, name string) (addr string, stop func()) {
	t.Helper()
	return echoTCPAt(t, name, freeAddr(t))
}

// echoTCPAt is echoTCP on an address that was free before.
func echoTCPAt(t *testing.T, name, at string) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					if _, err := conn.Write(append([]byte(name+" "), buf[:n]...)); err != nil {
						return
					}
				}
			}()
		}
	})
	stop = func() { // the system closes the socket only once no goroutine waits on it
		ln.Close()
		accepting.Wait()
	}
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

// echoUDP starts a UDP backend that answers each datagram with its name and the
// datagram.
func echoUDP(t *testing.T, name, addr string) (at string, stop func()) {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(append([]byte(name+" "), buf[:n]...), from)
		}
	}()
	stop = func() { pc.Close() }
	t.Cleanup(stop)
	return pc.LocalAddr().String(), stop
}

func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, addr)
	for end := time.Now().Add(relaytest.Limit); err != nil; conn, err = net.Dial(network, addr) {
		if time.Now().After(end) {
			t.Fatalf("dial %s: %v", addr, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
	return conn
}

// ask sends text and returns the answer.
func ask(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatalf("write: %v", err)
	}
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(buf[:n])
}

// keepAsking repeats a datagram until it is answered. Datagrams are lost while
// nothing listens yet.
func keepAsking(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	for range 30 {
		_, _ = conn.Write([]byte(text))
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := conn.Read(buf); err == nil {
			return string(buf[:n])
		}
	}
	t.Fatalf("no answer to %q", text)
	return ""
}
