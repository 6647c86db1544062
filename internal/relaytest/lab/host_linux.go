package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Host is another machine: a network namespace, which lasts until the test ends.
type Host struct {
	name string
	pid  int // of a process that keeps the namespace
	net  *os.File
	link netip.Prefix // its address on its link to this machine
}

// NewHost makes a host in which only loopback is up. The name is also the name of
// network devices, so it must be short.
func NewHost(t testing.TB, name string) *Host {
	t.Helper()
	keeper := exec.Command("cat") // ends with the test's process, which holds its input
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	input, err := keeper.StdinPipe()
	relaytest.Check(t, err)
	if err := keeper.Start(); err != nil {
		t.Skip("cannot create a network namespace: ", err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		_ = keeper.Wait()
	})
	h := &Host{name: name, pid: keeper.Process.Pid}
	h.net, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", h.pid))
	relaytest.Check(t, err)
	t.Cleanup(func() { _ = h.net.Close() })
	h.run(t, "ip", "link", "set", "lo", "up")
	h.Set(t, "net/ipv4/icmp_ratelimit", "0") // else the kernel leaves ICMP errors out
	return h
}

// Command returns a command that runs on the host. Its process is the command's
// own, so that it can be sent signals.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", h.pid), name}, args...)...)
}

// run runs a command on the host, like run.
func (h *Host) run(t testing.TB, command ...string) {
	t.Helper()
	run(t, h.Command(command[0], command[1:]...).Args...)
}

// Do calls f on a thread of the host, and waits for it. The sockets that f opens
// stay on the host. f must not end the test.
func (h *Host) Do(f func()) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Setns(int(h.net.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	return <-done
}

// Set writes a value below /proc/sys on the host.
func (h *Host) Set(t testing.TB, name, value string) {
	t.Helper()
	var err error
	relaytest.Check(t, h.Do(func() { err = os.WriteFile("/proc/sys/"+name, []byte(value), 0) }))
	relaytest.Check(t, err)
}

// Link connects the host to this machine, whose address is the prefix's, such as
// 10.20.0.1/24. The host gets the next address, and this machine is its way to
// all other networks.
func (h *Host) Link(t testing.TB, prefix string) {
	t.Helper()
	here := netip.MustParsePrefix(prefix)
	h.link = netip.PrefixFrom(here.Addr().Next(), here.Bits())
	run(t, "ip", "link", "add", "to-"+h.name, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.pid))
	run(t, "ip", "addr", "add", prefix, "dev", "to-"+h.name)
	run(t, "ip", "link", "set", "to-"+h.name, "up")
	h.run(t, "ip", "addr", "add", h.link.String(), "dev", "eth0")
	h.run(t, "ip", "link", "set", "eth0", "up")
	h.run(t, "ip", "route", "add", "default", "via", here.Addr().String())
}

// LinkBehind connects the host to a router that is linked to this machine. prefix
// is the network between the two, in which the router has the prefix's address.
// Through the router, packets have at most mtu bytes in both directions, which
// neither end knows: a larger packet that may not be cut into fragments is lost,
// and the router reports that with an ICMP error.
func (h *Host) LinkBehind(t testing.TB, router *Host, prefix string, mtu int) {
	t.Helper()
	at := netip.MustParsePrefix(prefix)
	there := netip.PrefixFrom(at.Addr().Next(), at.Bits())
	network, size := at.Masked().String(), strconv.Itoa(mtu)
	router.Set(t, "net/ipv4/ip_forward", "1")
	router.run(t, "ip", "link", "add", "to-"+h.name, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.pid))
	router.run(t, "ip", "addr", "add", prefix, "dev", "to-"+h.name)
	router.run(t, "ip", "link", "set", "to-"+h.name, "up")
	router.run(t, "ip", "route", "replace", network, "dev", "to-"+h.name, "mtu", size)
	router.run(t, "ip", "route", "replace", router.link.Masked().String(), "dev", "eth0", "mtu", size)
	h.run(t, "ip", "addr", "add", there.String(), "dev", "eth0")
	h.run(t, "ip", "link", "set", "eth0", "up")
	h.run(t, "ip", "route", "add", "default", "via", at.Addr().String())
	run(t, "ip", "route", "add", network, "via", router.link.Addr().String())
}

// ProxySYNs makes the host's packet filter answer the SYNs that come over its link to a TCP
// port, see SYNPROXY of iptables-extensions(8). The filter connects to the port only when a
// client has acknowledged the answer, whose window is 0.
func (h *Host) ProxySYNs(t testing.TB, port uint16) {
	t.Helper()
	to := []string{"-i", "eth0", "-p", "tcp", "--dport", strconv.Itoa(int(port))}
	for _, rule := range [][]string{
		slices.Concat([]string{"-t", "raw", "-A", "PREROUTING"}, to, []string{"--syn", "-j", "CT", "--notrack"}),
		slices.Concat([]string{"-A", "INPUT"}, to, []string{"-m", "conntrack", "--ctstate", "INVALID,UNTRACKED", "-j", "SYNPROXY", "--mss", "1460"}),
		{"-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"},
	} {
		h.run(t, append([]string{"iptables", "-w"}, rule...)...)
	}
	h.Set(t, "net/netfilter/nf_conntrack_tcp_loose", "0") // else an acknowledgement does not reach the rule
}
