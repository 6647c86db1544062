package module_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The tests in this file stop real servers with SIGSTOP: they still accept
// connections and datagrams, and answer nothing. They skip where a server is not
// installed.

// redisCommand sends a command and returns the first line of the answer.
func redisCommand(conn net.Conn, command string) (string, error) {
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := conn.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// redisAt sends a command on a new connection. It returns "" if it gets no answer.
func redisAt(addr, command string) string {
	conn, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	answer, _ := redisCommand(conn, command)
	return answer
}

// A Redis master hangs and its replica is promoted. Clients come back to the new
// master, and stay there when the old one returns as a replica.
func TestFailoverOfRedis(t *testing.T) {
	program := needs(t, "redis-server")
	a, b := freeAddr(t), freeAddr(t)
	run := func(addr string, args ...string) func(syscall.Signal) {
		_, port, _ := net.SplitHostPort(addr)
		process := startServer(t, "", program, append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}, args...)...)
		return func(signal syscall.Signal) { relaytest.Check(t, process.Signal(signal)) }
	}
	replicaOf := func(addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		return host + " " + port
	}
	signalA := run(a)
	run(b, "--replicaof", replicaOf(a))
	at, name := freeAddr(t), unique("redis")
	start(t, block("relay+tcp/"+at, fmt.Sprintf(`%s %s {
		name %s
		hold 15s
		on_down cut
		health_check 1s {
			redis master
		}
	}`, a, b, name)))

	relaytest.Eventually(t, "a write through the relay", func() bool { return redisAt(at, "SET key old") == "+OK" })
	relaytest.Eventually(t, "the replica to have it", func() bool { return redisAt(b, "STRLEN key") == ":3" })
	old := dial(t, "tcp", at)
	if answer, err := redisCommand(old, "SET key older"); answer != "+OK" {
		t.Fatal(answer, err)
	}
	relaytest.Eventually(t, "the replica to have it", func() bool { return redisAt(b, "STRLEN key") == ":5" })

	signalA(syscall.SIGSTOP)
	if answer := redisAt(b, "REPLICAOF NO ONE"); answer != "+OK" {
		t.Fatal(answer)
	}
	_ = old.SetDeadline(time.Now().Add(relaytest.Limit))
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection to the old master ended with %v", err)
	}
	relaytest.Eventually(t, "a write to the new master", func() bool { return redisAt(at, "SET key newest") == "+OK" })
	if answer := redisAt(b, "STRLEN key"); answer != ":6" {
		t.Errorf("the new master has a value of length %s", answer)
	}

	signalA(syscall.SIGCONT)
	relaytest.Eventually(t, "the old master to follow", func() bool { return redisAt(a, "REPLICAOF "+replicaOf(b)) == "+OK" })
	relaytest.Eventually(t, "the replica to have the value", func() bool { return redisAt(a, "STRLEN key") == ":6" })
	for range 20 {
		if answer := redisAt(at, "SET key newest"); answer != "+OK" {
			t.Fatalf("a write: %q", answer)
		}
	}
}

// A DNS server hangs. A query that it has got is answered by the next one: over UDP
// by udp_reply_timeout, over TCP by first_byte_timeout and rescue.
func TestFailoverOfDNS(t *testing.T) {
	program := needs(t, "dnsmasq")
	server := func(answer string) (addr string, signal func(syscall.Signal)) {
		addr = freeAddr(t)
		_, port, _ := net.SplitHostPort(addr)
		process := startServer(t, "", program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=", "--pid-file=",
			"--listen-address=127.0.0.1", "--bind-interfaces", "--port="+port, "--address=/example.test/"+answer)
		return addr, func(signal syscall.Signal) { relaytest.Check(t, process.Signal(signal)) }
	}
	const first, second = "192.0.2.1", "192.0.2.2"
	a, signalA := server(first)
	b, _ := server(second)
	query := func(network, addr string) string {
		m := new(dns.Msg)
		m.SetQuestion("example.test.", dns.TypeA)
		client := dns.Client{Net: network, Timeout: relaytest.Limit}
		answer, _, err := client.Exchange(m, addr)
		if err != nil {
			return err.Error()
		}
		for _, r := range answer.Answer {
			if a, ok := r.(*dns.A); ok {
				return a.A.String()
			}
		}
		return dns.RcodeToString[answer.Rcode]
	}
	for _, addr := range []string{a, b} {
		relaytest.Eventually(t, addr+" to answer", func() bool { return net.ParseIP(query("tcp", addr)) != nil })
	}
	at, name := freeAddr(t), unique("dns")
	service := func(more string) string {
		return block("relay+udp/"+at+" relay+tcp/"+at, fmt.Sprintf(`%s %s {
			name %s
			udp_reply_timeout 1s
			udp_responses 1
			first_byte_timeout 1s
			rescue 4KiB
			%s
		}`, a, b, name, more))
	}
	s := start(t, service(""))
	networks := []string{"udp", "tcp"}
	for _, network := range networks {
		if got := query(network, at); got != first {
			t.Fatalf("%s: %s", network, got)
		}
	}
	signalA(syscall.SIGSTOP)
	for _, network := range networks {
		if got := query(network, at); got != second {
			t.Errorf("%s, while the first server hangs: %s", network, got)
		}
	}
	signalA(syscall.SIGCONT)
	s.mustReload(service("failback\nhealth_check 100ms {\n network both\n dns example.test\n }"))
	for _, network := range networks {
		relaytest.Eventually(t, network+" to be back on the first server", func() bool { return query(network, at) == first })
	}
}

// An sshd hangs. The check reads the greeting of the server.
func TestFailoverOfSSH(t *testing.T) {
	keyscan := needs(t, "ssh-keyscan")
	a, keyA, process := startSSH(t)
	b, keyB, _ := startSSH(t)
	port := freePort(t)
	start(t, block(fmt.Sprintf("relay+tcp/127.0.0.1:%d", port), fmt.Sprintf(`%s %s {
		name %s
		failback
		health_check 1s {
			expect SSH-2.0
		}
	}`, a, b, unique("ssh"))))
	serves := func(key string) func() bool {
		return func() bool {
			out, _ := exec.Command(keyscan, "-T", "1", "-t", "ed25519", "-p", strconv.Itoa(port), "127.0.0.1").Output()
			return strings.Contains(string(out), key)
		}
	}
	relaytest.Eventually(t, "the first server to greet", serves(keyA))
	relaytest.Check(t, process.Signal(syscall.SIGSTOP))
	relaytest.Eventually(t, "the second server to greet", serves(keyB))
}
