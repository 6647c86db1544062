package module_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The tests in this file run checks against real servers. They skip where a
// server is not installed.

// startServer runs a server in the foreground until the test ends. account is the
// user that runs it if the test runs as root; "": the same user.
func startServer(t *testing.T, account, name string, args ...string) *os.Process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: credential(t, account)}
	cmd.WaitDelay = time.Second // a process that the server has started may keep its output open
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	relaytest.Check(t, cmd.Start())
	t.Cleanup(func() {
		signalAll(cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, out.String())
		}
	})
	return cmd.Process
}

// credential returns the credential of a user, or nil if the test need not or
// cannot change its own.
func credential(t *testing.T, account string) *syscall.Credential {
	t.Helper()
	if account == "" || os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup(account)
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// needs skips the test unless a program is installed, and returns its path. It also
// searches where Debian installs servers.
func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/lib/postgresql/*/bin"} {
		found, _ := filepath.Glob(filepath.Join(dir, program))
		if len(found) > 0 {
			return found[len(found)-1]
		}
	}
	t.Skip(err)
	return ""
}

// checked waits until all backends give the wanted result to a health check.
func checked(t *testing.T, listen, check string, want map[string]bool) {
	t.Helper()
	var backends []string
	for backend := range want {
		backends = append(backends, backend)
	}
	name := unique("checked")
	s := start(t, block(listen, fmt.Sprintf("%s {\n name %s\n health_check 1h {\n timeout 2s\n %s\n }\n }", strings.Join(backends, " "), name, check)))
	defer func() { relaytest.Check(t, s.stop()) }()
	for backend, ok := range want {
		var last apiTest
		relaytest.Eventually(t, fmt.Sprintf("%s: %s healthy: %v", check, backend, ok), func() bool {
			last = s.test(name, backend)
			return last.OK == ok
		})
		t.Logf("%s: %s: %+v", check, backend, last.Dials)
	}
}

func TestCheckOfRedis(t *testing.T) {
	program := needs(t, "redis-server")
	run := func(args ...string) string {
		port := freePort(t)
		startServer(t, "", program, append([]string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}, args...)...)
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	master := run()
	_, port, _ := net.SplitHostPort(master)
	replica, secret := run("--replicaof", "127.0.0.1", port), run("--requirepass", "secret")
	listen := "relay+tcp/" + freeAddr(t)
	checked(t, listen, "redis", map[string]bool{master: true, replica: true, secret: true, freeAddr(t): false})
	checked(t, listen, "redis master", map[string]bool{master: true, replica: false, secret: false})
	checked(t, listen, `send "AUTH secret\r\nROLE\r\n"
	expect "+OK\r\n*3\r\n$6\r\nmaster"`, map[string]bool{secret: true, master: false})
}

func TestCheckOfDNS(t *testing.T) {
	program := needs(t, "dnsmasq")
	at := freeAddr(t)
	_, port, _ := net.SplitHostPort(at)
	startServer(t, "", program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=", "--pid-file=",
		"--listen-address=127.0.0.1", "--bind-interfaces", "--port="+port, "--address=/example.test/192.0.2.1")
	both := "relay+udp/" + freeAddr(t) + " relay+tcp/" + freeAddr(t)
	for _, network := range []string{"tcp", "udp", "both"} {
		checked(t, both, "network "+network+"\n dns example.test", map[string]bool{at: true})
		checked(t, both, "network "+network+"\n dns other.test", map[string]bool{at: false}) // refused
	}
}

func TestCheckOfPostgres(t *testing.T) {
	initdb, program := needs(t, "initdb"), needs(t, "postgres")
	run := func(auth string) string {
		dir, owner := ownedDir(t, "postgres"), credential(t, "postgres")
		data := filepath.Join(dir, "data")
		password := filepath.Join(dir, "password")
		relaytest.Check(t, os.WriteFile(password, []byte("secret\n"), 0o644))
		cmd := exec.Command(initdb, "--pgdata", data, "--no-sync", "--username", "owner", "--auth", auth, "--pwfile", password)
		cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: owner}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		port := freePort(t)
		startServer(t, "postgres", program, "-D", data, "-p", strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+dir, "-F")
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	trusted, password := run("trust"), run("scram-sha-256")
	checked(t, "relay+tcp/"+freeAddr(t), "postgres", map[string]bool{trusted: true, password: true, freeAddr(t): false})
}

// startSSH starts an sshd and returns its address and public key.
func startSSH(t *testing.T) (addr, key string, process *os.Process) {
	t.Helper()
	program, keygen := needs(t, "sshd"), needs(t, "ssh-keygen")
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // as Debian's service does: sshd does not start without it
			t.Skip(err)
		}
	}
	addr = freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	file := filepath.Join(t.TempDir(), "key")
	relaytest.Check(t, exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", file).Run())
	public, err := os.ReadFile(file + ".pub")
	relaytest.Check(t, err)
	process = startServer(t, "", program, "-D", "-e", "-f", "/dev/null", "-o", "HostKey="+file, "-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-p", port)
	return addr, strings.Fields(string(public))[1], process
}

func TestCheckOfSSH(t *testing.T) {
	at, _, _ := startSSH(t)
	checked(t, "relay+tcp/"+freeAddr(t), "expect SSH-2.0", map[string]bool{at: true})
	checked(t, "relay+tcp/"+freeAddr(t), "expect 220", map[string]bool{at: false})
}

// One port serves the clients, and another one says who is the primary, as with
// Patroni.
func TestCheckOfACompanionPort(t *testing.T) {
	patroni := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/primary" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer patroni.Close()
	_, port, _ := net.SplitHostPort(patroni.Listener.Addr().String())
	db := freeAddr(t)
	listen := "relay+tcp/" + freeAddr(t) + " relay+udp/" + freeAddr(t)
	checked(t, listen, "port "+port+"\n http /primary", map[string]bool{db: true})
	checked(t, listen, "port "+port+"\n http /replica", map[string]bool{db: false})
	checked(t, listen, "port "+port+"\n http /replica 503", map[string]bool{db: true})
	checked(t, listen, "port "+port+"\n network both\n http /primary 2xx", map[string]bool{db: true})
}
