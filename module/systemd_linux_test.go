package module_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// notifications receives what processes send to the service manager.
type notifications struct {
	mu       sync.Mutex
	received []string // guarded by mu
}

// newNotifications stands for the service manager of the processes that the test starts.
func newNotifications(t *testing.T) *notifications {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	relaytest.Check(t, err)
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	n := new(notifications)
	go func() { // ends with the socket
		buf := make([]byte, 4096)
		for {
			length, err := conn.Read(buf)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.received = append(n.received, string(buf[:length]))
			n.mu.Unlock()
		}
	}()
	return n
}

// count returns how many messages begin with text.
func (n *notifications) count(text string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, message := range n.received {
		if strings.HasPrefix(message, text) {
			count++
		}
	}
	return count
}

// before reports whether the first message that begins with one text came before the
// first one that begins with the other.
func (n *notifications) before(one, other string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	index := func(text string) int {
		return slices.IndexFunc(n.received, func(message string) bool { return strings.HasPrefix(message, text) })
	}
	return index(one) >= 0 && index(one) < index(other)
}

// While relays are drained, systemd is told again and again to wait, and at no other
// time. Its own unit of Caddy has a stop timeout of 5 s.
func TestExitExtendsStopTimeout(t *testing.T) {
	systemd := newNotifications(t)
	ln := listenTCP(t)
	at := freeAddr(t)
	p := startProcess(t, block("relay+tcp/"+at, ln.Addr().String()+" {\n shutdown_timeout 1m\n }"), 0)
	client := dial(t, "tcp", at)
	backend := accept(t, ln)
	p.mustReload(block("relay+tcp/"+at, ln.Addr().String()+" {\n shutdown_timeout 2m\n }"))
	if n := systemd.count("EXTEND_TIMEOUT_USEC"); n > 0 {
		t.Errorf("%d messages before the exit", n)
	}
	p.terminate()
	relaytest.Eventually(t, "three messages", func() bool { return systemd.count("EXTEND_TIMEOUT_USEC=10000000") >= 3 })
	if !systemd.before("STOPPING=1", "EXTEND_TIMEOUT_USEC") {
		t.Error("the stop timeout was extended before the stop")
	}
	_, err := io.WriteString(backend, "bye")
	relaytest.Check(t, err)
	backend.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "bye" {
		t.Errorf("got %q, %v", got, err)
	}
	client.Close()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	p.drained(1, 0)
}

// A process without relays exits without a message.
func TestExitWithoutRelaysExtendsNothing(t *testing.T) {
	systemd := newNotifications(t)
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	p := startProcess(t, block("relay+tcp/"+at, backend), 0)
	conn := dial(t, "tcp", at)
	ask(t, conn, "x")
	conn.Close()
	relaytest.Eventually(t, "the relay to end", func() bool { return len(p.lines("relay ended")) == 1 })
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	relaytest.Eventually(t, "the message of the exit", func() bool { return systemd.count("STOPPING=1") == 1 })
	if n := systemd.count("EXTEND_TIMEOUT_USEC"); n > 0 {
		t.Errorf("%d messages extend the stop timeout", n)
	}
}

// The old process names the new one as the main process of the unit. Messages of the
// old one are ignored from then on.
func TestUpgradeNotifiesMainPID(t *testing.T) {
	systemd := newNotifications(t)
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	u := startUpgradable(t, block("relay+tcp/"+at, backend))
	for range 2 {
		u.mustUpgrade()
		relaytest.Eventually(t, "the message", func() bool { return systemd.count(fmt.Sprintf("MAINPID=%d", u.pid)) == 1 })
	}
	if n := systemd.count("MAINPID="); n != 2 {
		t.Errorf("%d messages", n)
	}
	ask(t, dial(t, "tcp", at), "x")
}

// Below systemd, the new process is its child, not one of the old process. So systemd
// learns at once how the new process ended, also while the old one drains.
func TestUpgradeIsSupervised(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil || exec.Command(unshare, "--pid", "--fork", "--mount-proc", "true").Run() != nil {
		t.Skip("needs unshare(1) and the right to make a PID namespace")
	}
	if !relaytest.InChildCommand(t, func(cmd *exec.Cmd) {
		cmd.Args = append([]string{unshare, "--pid", "--fork", "--mount-proc", "--kill-child", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = unshare
	}) {
		return
	}
	if os.Getpid() != 1 { // it stands for systemd
		t.Fatalf("the PID is %d", os.Getpid())
	}
	newNotifications(t)
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	u := startUpgradable(t, block("relay+tcp/"+at, backend+" {\n shutdown_timeout 1m\n }"))
	old := u.pid
	client := dial(t, "tcp", at)
	ask(t, client, "x") // keeps the old process
	u.mustUpgrade()
	killProcess(u.pid)
	var status syscall.WaitStatus
	if pid, err := syscall.Wait4(u.pid, &status, 0, nil); err != nil || pid != u.pid || status.Signal() != syscall.SIGKILL {
		t.Errorf("wait for the new process: PID %d, status %v, %v", pid, status, err)
	}
	if !alive(old) {
		t.Error("the old process has exited")
	}
	ask(t, client, "x")
}
