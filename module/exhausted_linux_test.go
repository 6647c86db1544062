package module_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A burst of clients takes all descriptors. When the burst ends, service resumes
// on its own.
func TestDescriptorsRunOut(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	at := freeAddr(t)
	const limit = 64
	p := startProcess(t, bothAt(at, backend+" {\n name small\n connect_timeout 1s\n idle_timeout 2s\n }"), limit)
	for range 2 {
		var burst []net.Conn
		for range 100 {
			conn, err := net.DialTimeout("tcp", at, relaytest.Limit)
			if errors.Is(err, syscall.ECONNRESET) {
				continue // refused: clients and backends of this test are on one machine
			}
			if err != nil {
				t.Fatal("the kernel must queue the client even without descriptors: ", err)
			}
			burst = append(burst, conn)
			udp := dial(t, "udp", at)
			_, _ = udp.Write([]byte("x"))
			burst = append(burst, udp)
		}
		relaytest.Eventually(t, "the descriptors to run out", func() bool {
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
			return err == nil && len(fds) >= limit-limit/4 // the others are reserved
		})
		for _, conn := range burst {
			conn.Close()
		}
		relaytest.Eventually(t, "service to return", func() bool { return serves(at, "b x") })
		if got := keepAsking(t, dial(t, "udp", at), "x"); got != "b x" {
			t.Errorf("udp: got %q", got)
		}
	}
	for _, message := range []string{"backend failed, first strike", "backend order changed"} {
		if got := p.lines(message); len(got) != 0 {
			t.Errorf("the backend was blamed: %v", got)
		}
	}
	again, failed := len(p.awaitLines("accepting clients again", 1)), len(p.lines("accept failed, retrying"))
	t.Logf("accept failures logged %d times, recoveries %d times", failed, again)
	if again > failed {
		t.Errorf("accept failures logged %d times, recoveries %d times", failed, again)
	}
}

const netnsVariable = "RELAY_TEST_NETNS"

// With more UDP sessions than ports, the longest-idle sessions are evicted, and no
// backend gets a strike. The test runs itself again in a network namespace, where
// it can limit the ports.
func TestPortsRunOut(t *testing.T) {
	if os.Getenv(netnsVariable) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run", "^TestPortsRunOut$", "-test.v")
		cmd.Env = append(os.Environ(), netnsVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case err != nil && !errors.As(err, &exit):
			t.Skip("cannot create a network namespace: ", err)
		case strings.Contains(string(out), "--- SKIP"):
			t.Skipf("in the namespace:\n%s", out)
		case err != nil:
			t.Fatalf("in the namespace: %v\n%s", err, out)
		}
		t.Logf("in the namespace:\n%s", out)
		return
	}
	if err := loopbackUp(); err != nil {
		t.Skip("cannot bring lo up: ", err)
	}
	const ports = 50
	low := 50000
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "%d %d", low, low+ports-1), 0); err != nil {
		t.Skip("cannot limit the ports: ", err)
	}
	backend := echoSource(t, freeAddr(t))
	at := freeAddr(t)
	s := start(t, block("relay+udp/"+at, backend+" {\n name short\n max_udp_sessions 1000\n }"))
	const sessions = 4 * ports
	sources := make(map[string]bool)
	remote, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	for range sessions {
		local := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: freePort(t)} // outside the limited range
		conn, err := net.DialUDP("udp", local, remote)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
		sources[ask(t, conn, "x")] = true
	}
	if len(sources) > ports {
		t.Fatalf("%d ports in use, want at most %d", len(sources), ports)
	}
	for _, message := range []string{"backend failed, first strike", "backend order changed", "all backends unavailable", "client refused"} {
		if got := s.lines(message); len(got) != 0 {
			t.Errorf("%d times %q: %v", len(got), message, got[0])
		}
	}
	if got := reasons(s)["evicted"]; got < sessions-ports {
		t.Errorf("%d sessions evicted, want at least %d", got, sessions-ports)
	}
	t.Logf("%d sessions over %d ports, %d evicted", sessions, len(sources), reasons(s)["evicted"])
}

func loopbackUp() error {
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return conn.(io.Closer).Close()
}
