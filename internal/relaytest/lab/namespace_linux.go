package lab

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// InNamespace runs the calling test in a child process with a network namespace
// of its own, in which only loopback is up, in parallel with other such tests. It
// returns true in the child, like [relaytest.InChild].
func InNamespace(t *testing.T) bool {
	t.Helper()
	return inNamespaces(t, syscall.CLONE_NEWNET)
}

func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	if err := exec.Command("unshare", "-n", "true").Run(); err != nil {
		t.Skip("cannot create a network namespace: ", err)
	}
	child := relaytest.InChildCommand(t, func(cmd *exec.Cmd) {
		cmd.Args = append(cmd.Args, "-test.parallel=16") // parts of a test mostly wait
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
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

// DeadNeighbour makes networks (such as 10.9.0.1/24, the address of this side)
// on which no other host answers, as if it was switched off. The kernel reports
// that after 300 ms, and not after its default of 3 s.
func DeadNeighbour(t testing.TB, prefixes ...string) {
	t.Helper()
	run(t, "ip", "link", "add", "dead0", "type", "veth", "peer", "name", "dead1")
	for _, family := range []string{"ipv4", "ipv6"} {
		setting := "/proc/sys/net/" + family + "/neigh/dead0/retrans_time_ms"
		if err := os.WriteFile(setting, []byte("100"), 0); err != nil {
			t.Skip(err)
		}
	}
	run(t, "ip", "link", "set", "dead1", "up")
	run(t, "ip", "link", "set", "dead0", "up")
	for _, prefix := range prefixes {
		run(t, "ip", "addr", "add", prefix, "dev", "dead0", "nodad")
	}
}

// RejectSends makes sendto(2) fail with EPERM for UDP datagrams to addr, as
// while a firewall is reloaded, until restore is called.
func RejectSends(t testing.TB, addr string) (restore func()) {
	t.Helper()
	command := "iptables"
	if netip.MustParseAddr(addr).Is6() {
		command = "ip6tables"
	}
	rule := []string{"OUTPUT", "-p", "udp", "-d", addr, "-j", "DROP"}
	run(t, append([]string{command, "-w", "-A"}, rule...)...)
	return func() {
		t.Helper()
		run(t, append([]string{command, "-w", "-D"}, rule...)...)
	}
}
