package lab

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// InNamespace runs the calling test in a child process with a network namespace
// of its own, in which only loopback is up. It returns true in the child, like
// [relaytest.InChild].
func InNamespace(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	if err := exec.Command("unshare", "-n", "true").Run(); err != nil {
		t.Skip("cannot create a network namespace: ", err)
	}
	child := relaytest.InChildCommand(t, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	})
	if child {
		run(t, "ip", "link", "set", "lo", "up")
	}
	return child
}

// run runs a command and skips the test if it fails, because then the system
// lacks something that the lab needs.
func run(t testing.TB, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Skipf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
}

// DeadNeighbour makes a network (such as 10.9.0.1/24, the address of this side)
// on which no other host answers, as if it was switched off.
func DeadNeighbour(t testing.TB, prefix string) {
	t.Helper()
	run(t, "ip", "link", "add", "dead0", "type", "veth", "peer", "name", "dead1")
	run(t, "ip", "addr", "add", prefix, "dev", "dead0")
	run(t, "ip", "link", "set", "dead0", "up")
	run(t, "ip", "link", "set", "dead1", "up")
}

// RejectSends makes sendto(2) fail with EPERM for UDP datagrams to addr, as
// while a firewall is reloaded, until restore is called.
func RejectSends(t testing.TB, addr string) (restore func()) {
	t.Helper()
	rule := []string{"OUTPUT", "-p", "udp", "-d", addr, "-j", "DROP"}
	run(t, append([]string{"iptables", "-A"}, rule...)...)
	return func() {
		t.Helper()
		run(t, append([]string{"iptables", "-D"}, rule...)...)
	}
}
