package module_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// startDNSMasq starts a DNS server on port 53 of an address, which answers with the
// lines of the file addresses, in the form of a hosts file, and knows no other names.
func startDNSMasq(t *testing.T, ip, addresses string) *os.Process {
	t.Helper()
	program := needs(t, "dnsmasq")
	process := startServer(t, "", program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=", "--pid-file=",
		"--listen-address="+ip, "--bind-interfaces", "--local-ttl=1", "--local=/#/", "--addn-hosts="+addresses)
	relaytest.Eventually(t, "dnsmasq to listen", func() bool {
		conn, err := net.Dial("tcp", ip+":53")
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return process
}

// The files of the machine and the DNS change while the relay runs, as on a laptop
// that joins another network or a VPN.
func TestEnvironmentChanges(t *testing.T) {
	needs(t, "dnsmasq")
	etc := lab.InEtc(t)
	if etc == nil {
		return
	}
	const port = 7000
	for _, ip := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.66"} {
		restartable(t, ip, port)
	}
	home := t.TempDir() + "/home"
	write := func(text string) { relaytest.Check(t, os.WriteFile(home, []byte(text), 0o644)) }
	write("127.0.0.2 used.test db.example.test moved.test\n127.0.0.66 db.example.test.trap.test\n")
	dnsmasq := startDNSMasq(t, "127.0.0.1", home)
	vpn := t.TempDir() + "/vpn"
	relaytest.Check(t, os.WriteFile(vpn, []byte("127.0.0.3 moved.test used.test\n"), 0o644))
	startDNSMasq(t, "127.0.0.53", vpn)
	etc.Write(t, "hosts", "127.0.0.2 file.test\n")
	etc.Write(t, "resolv.conf", "nameserver 127.0.0.1\nsearch trap.test\noptions ndots:5\n")

	hosts := []string{"file.test", "moved.test", "used.test", "db.example.test.", "file.test.", "moved.test."}
	var config strings.Builder
	for i, host := range hosts {
		ttl := "record 1s 1s"
		if i >= 4 {
			ttl = "1h"
		}
		config.WriteString(block(fmt.Sprintf("relay+tcp/127.0.0.1:%d", port+i), fmt.Sprintf("%s:%d {\n name %s\n dns_ttl %s\n }", host, port, host, ttl)))
	}
	s := start(t, config.String())
	servedBy := func(host string) string {
		for i, h := range hosts {
			if h == host {
				ip, _, _ := strings.Cut(ask(t, dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", port+i)), "x"), " ")
				return ip
			}
		}
		return ""
	}
	// A name with a final dot does not get a search domain, whatever ndots says.
	for _, host := range hosts {
		if got := servedBy(host); got != "127.0.0.2" {
			t.Fatalf("%s is served by %s", host, got)
		}
	}
	awaitServer := func(host, want string) {
		t.Helper()
		relaytest.Eventually(t, host+" to be served by "+want, func() bool { return servedBy(host) == want })
	}

	// A name in use is removed from the DNS: its addresses stay in use.
	write("127.0.0.2 moved.test\n")
	relaytest.Check(t, dnsmasq.Signal(syscall.SIGHUP)) // reads its file again
	relaytest.Eventually(t, "the failure to be logged", func() bool {
		for _, line := range s.lines("lookup failed, keeping old addresses") {
			if line["host"] == "used.test" && strings.Contains(fmt.Sprint(line["error"]), "no such host") {
				return true
			}
		}
		return false
	})
	if got := servedBy("used.test"); got != "127.0.0.2" {
		t.Errorf("after NXDOMAIN, used.test is served by %s", got)
	}

	// The hosts file and resolv.conf change. With dns_ttl record, that is followed;
	// with a fixed lifetime, after a flush.
	etc.Write(t, "hosts", "127.0.0.3 file.test\n")
	etc.Write(t, "resolv.conf", "nameserver 127.0.0.53\n")
	awaitServer("file.test", "127.0.0.3")
	awaitServer("moved.test", "127.0.0.3")
	awaitServer("used.test", "127.0.0.3")
	for _, host := range []string{"file.test.", "moved.test."} {
		if got := servedBy(host); got != "127.0.0.2" {
			t.Errorf("%s is served by %s before the flush", host, got)
		}
	}
	s.must("POST", "dns/flush", new(struct{}))
	awaitServer("file.test.", "127.0.0.3")
	awaitServer("moved.test.", "127.0.0.3")
}
