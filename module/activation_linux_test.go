package module_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// manager stands for a service manager that holds sockets and passes them to the
// processes that it starts (see sd_listen_fds(3)).
type manager struct {
	t     *testing.T
	at    string
	files []*os.File // the descriptors 3, 4, ...
	names string
}

// newManager opens a TCP socket "web" and a UDP socket "dns" on one address.
func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{t: t, at: freeAddr(t), names: "web:dns"}
	ln, err := net.Listen("tcp", m.at)
	relaytest.Check(t, err)
	pc, err := net.ListenPacket("udp", m.at)
	relaytest.Check(t, err)
	for _, socket := range []interface {
		File() (*os.File, error)
		Close() error
	}{ln.(*net.TCPListener), pc.(*net.UDPConn)} {
		file, err := socket.File()
		relaytest.Check(t, err)
		socket.Close()
		t.Cleanup(func() { file.Close() })
		m.files = append(m.files, file)
	}
	return m
}

// start starts a process with the sockets. It goes through a shell, because only the
// process itself knows its PID before it is started.
func (m *manager) start(u *upgradable) {
	t := m.t
	t.Helper()
	self, err := os.Executable()
	relaytest.Check(t, err)
	script := fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec "$0" "$@"`, len(m.files), m.names)
	cmd := exec.Command("sh", "-c", script, self, "run", "--config", u.config)
	cmd.ExtraFiles = m.files
	u.process = spawn(t, "caddy", cmd)
	u.pid = cmd.Process.Pid
	u.waitRunning(t)
}

func newActivated(t *testing.T, layer4 string) (*manager, *upgradable) {
	m := newManager(t)
	u := &upgradable{caddyProcess: &caddyProcess{server: newServer(t)}, config: filepath.Join(t.TempDir(), "config.json")}
	u.writeConfig(layer4)
	m.start(u)
	return m, u
}

// A restart refuses no client: those that come while no process runs are served by the
// next one, on both networks.
func TestActivationRestart(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	m, u := newActivated(t, block("relay+tcp/fd/web relay+udp/fd/dns", backend+" {\n shutdown_timeout 20s\n }"))
	stream, session := dial(t, "tcp", m.at), dial(t, "udp", m.at)
	ask(t, stream, "x")
	ask(t, session, "x")
	u.terminate()
	ask(t, stream, "still drained")
	relaytest.Eventually(t, "the listeners to close", func() bool { return len(u.lines("service stopped")) == 1 })
	waiting, err := net.Dial("tcp", m.at)
	relaytest.Check(t, err)
	defer waiting.Close()
	_ = waiting.SetDeadline(time.Now().Add(2 * relaytest.Limit)) // for the exit and the start of a process
	_, err = waiting.Write([]byte("waits"))
	relaytest.Check(t, err)
	for range 3 { // of a client that the process knows, and of new ones
		_, err := session.Write([]byte("y"))
		relaytest.Check(t, err)
	}
	later := dial(t, "udp", m.at)
	_, err = later.Write([]byte("z"))
	relaytest.Check(t, err)
	stream.Close()
	if status := u.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	m.start(u)
	for conn, want := range map[net.Conn]string{waiting: "b waits", session: "b y", later: "b z"} {
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("answer %q, %v, want %q", buf[:n], err, want)
		}
	}
}

// Sockets of the service manager are passed on by an upgrade, with their names and
// numbers, and are exclusive to no config: a reload may list them in another way.
func TestActivationUpgrade(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	sources := sourcesOf(t, backend)
	m, u := newActivated(t, block("relay+tcp/fd/3 relay+udp/fd/4", backend+" {\n shutdown_timeout 1m\n }"))
	stream, session := dial(t, "tcp", m.at), dial(t, "udp", m.at)
	ask(t, stream, "x")
	ask(t, session, "x")
	for i, layer4 := range []string{
		block("relay+tcp/fd/web relay+udp/fd/dns", backend+" {\n shutdown_timeout 1m\n }"),
		block("relay+tcp/"+m.at+" relay+udp/"+m.at, backend+" {\n shutdown_timeout 1m\n }"),
		block("fd/3 relay+udp/fd/4", backend+" {\n shutdown_timeout 1m\n }"), // Caddy's own network
	} {
		if i == 2 {
			u.mustReload(layer4)
		}
		u.writeConfig(layer4)
		u.mustUpgrade()
		pid := u.pid
		t.Cleanup(func() { killProcess(pid) })
		ask(t, session, "x")
		ask(t, dial(t, "tcp", m.at), "x")
		ask(t, dial(t, "udp", m.at), "x")
	}
	if got := sources(); got != 4 {
		t.Errorf("the backend saw 4 clients from %d addresses", got)
	}
}

// Addresses of sockets that were not passed are rejected with what was.
func TestActivationErrors(t *testing.T) {
	m, u := newActivated(t, block("relay+tcp/fd/web", "127.0.0.1:9"))
	have := fmt.Sprintf(`fd/3: tcp %s "web", fd/4: udp %s "dns"`, m.at, m.at)
	for listed, want := range map[string]string{
		"relay+tcp/fd/nothing":              have,
		"relay+tcp/fd/5":                    have,
		"relay+tcp/fd/dns":                  "no tcp socket of this name or number was passed to this process (have " + have,
		"relay+udp/fd/":                     "the name or the number of a socket is missing",
		"relay+tcp/fd/1":                    "the first socket has the number 3",
		"relay+tcp/fd/web:80":               "has its port already, remove :80",
		"relay+tcp/fd/web relay+tcp/fd/3":   "listed more than once",
		"relay+tcp/fd/web relay+tcp/fd/web": "listed more than once",
	} {
		if err := u.reload(block(listed, "127.0.0.1:9")); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), `\"`, `"`), want) {
			t.Errorf("%s: error %v, want it to contain %s", listed, err, want)
		}
	}
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_PID", "1")
	s := newServer(t)
	config, err := s.adapt(block("relay+udp/fd/web", "127.0.0.1:9"))
	relaytest.Check(t, err)
	path := filepath.Join(t.TempDir(), "config.json")
	relaytest.Check(t, os.WriteFile(path, config, 0o600))
	self, err := os.Executable()
	relaytest.Check(t, err)
	p := spawn(t, "caddy", exec.Command(self, "run", "--config", path))
	if status := p.status(); status != 1 || !strings.Contains(p.text(), "passed to process 1 (LISTEN_PID)") || !strings.Contains(p.text(), "use exec") {
		t.Errorf("status %d, output %s", status, p.text())
	}
}

// The program of systemd starts a process with a socket when a client comes.
func TestActivationByProgram(t *testing.T) {
	if _, err := exec.LookPath("systemd-socket-activate"); err != nil {
		t.Skip("needs systemd-socket-activate")
	}
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	u := &upgradable{caddyProcess: &caddyProcess{server: newServer(t)}, config: filepath.Join(t.TempDir(), "config.json")}
	u.writeConfig(block("relay+tcp/fd/front", backend))
	self, err := os.Executable()
	relaytest.Check(t, err)
	t.Setenv("RELAY_TEST_ROLE", "caddy")
	u.process = spawn(t, "caddy", exec.Command("systemd-socket-activate", "-l", at, "--fdname=front",
		"-E", "RELAY_TEST_ROLE", "-E", "XDG_CONFIG_HOME", "-E", "XDG_DATA_HOME", self, "run", "--config", u.config))
	conn := dial(t, "tcp", at) // starts the program
	_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
	if got := ask(t, conn, "x"); got != "b x" {
		t.Errorf("answer %q", got)
	}
}

// Sockets that were passed to another process, such as a script that has started this
// one without exec, are not taken for those of a process that replaces this one.
func TestUpgradeWithSocketsOfAnother(t *testing.T) {
	one, _ := echoTCP(t, "one")
	at := freeAddr(t)
	u := &upgradable{caddyProcess: &caddyProcess{server: newServer(t)}, config: filepath.Join(t.TempDir(), "config.json")}
	u.writeConfig(block("relay+tcp/"+at, one+" {\n name s\n shutdown_timeout 200ms\n }"))
	self, err := os.Executable()
	relaytest.Check(t, err)
	cmd := exec.Command("sh", "-c", `LISTEN_PID=1 LISTEN_FDS=1 exec "$0" "$@"`, self, "run", "--config", u.config)
	u.process = spawn(t, "caddy", cmd)
	u.pid = cmd.Process.Pid
	u.waitRunning(t)
	for range 2 {
		u.mustUpgrade()
		pid := u.pid
		t.Cleanup(func() { killProcess(pid) })
		ask(t, dial(t, "tcp", at), "x")
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		relaytest.Check(t, err)
		if strings.Contains(string(env), "LISTEN_FDS=") {
			t.Errorf("process %d was told of sockets that it does not have", pid)
		}
	}
}
