package main

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStage(t *testing.T) {
	const dir = "/tmp/with a blank/relay-bench-1"
	n, got, ok := parseStage(stageValue("bbr", dir))
	if want := (network{own: true, machine: "bbr"}); !ok || n != want || got != dir {
		t.Errorf("got %+v, %q, %v", n, got, ok)
	}
	for _, value := range []string{"", "bbr", "bbr ", "/tmp/relay-bench-1", " /tmp/relay-bench-1", "bbr /home/user", "1"} {
		if n, dir, ok := parseStage(value); ok {
			t.Errorf("%q is taken for the second stage: %+v, %q", value, n, dir)
		}
	}
}

func TestBeginStage(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv(stageVariable, "")
	n, dir, first, err := beginStage()
	if err != nil {
		t.Fatal(err)
	}
	if !first || n.own || n.machine == "" || filepath.Dir(dir) != os.Getenv("TMPDIR") {
		t.Errorf("first stage: %+v, %q, %v", n, dir, first)
	}
	t.Setenv(stageVariable, stageValue(n.machine, dir))
	again, same, first, err := beginStage()
	if want := (network{own: true, machine: n.machine}); err != nil || first || again != want || same != dir {
		t.Errorf("second stage: %+v, %q, %v, %v", again, same, first, err)
	}
	if value, set := os.LookupEnv(stageVariable); set {
		t.Errorf("processes that the bench starts get %s=%q", stageVariable, value)
	}
}

func TestNetworkFact(t *testing.T) {
	for n, want := range map[network]string{
		{own: true, machine: "bbr"}: "a network namespace of its own, TCP with cubic, as Linux by default (this machine: bbr)",
		{machine: "reno"}:           "the machine's network, TCP with reno",
	} {
		if got := n.fact(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNetworkCan(t *testing.T) {
	own := network{own: true}
	if err := own.can("bbr", "reno bbr cubic\n"); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		network
		available string
	}{{own, "reno cubic bbr3"}, {own, ""}, {network{}, "bbr"}} {
		if err := c.can("bbr", c.available); err == nil {
			t.Errorf("%+v with %q can use bbr", c.network, c.available)
		}
	}
}

// A listener of before the change gives its new connections the congestion control of
// the time at which they are accepted. The backend's listeners are open for the whole run.
func TestCongestionOfAcceptedSockets(t *testing.T) {
	failed := make(chan error, 1)
	used := make(map[string][]string)
	go func() {
		runtime.LockOSThread() // until the goroutine ends, which ends the thread in the other network
		failed <- func() error {
			if err := newNetwork(); err != nil {
				return err
			}
			listener, err := net.Listen("tcp", loopback+":0")
			if err != nil {
				return err
			}
			defer listener.Close()
			for _, name := range []string{"reno", defaultCongestion} {
				if err := setCongestion(name); err != nil {
					return err
				}
				if used[name], err = congestionOfBoth(listener); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	if err := <-failed; err != nil {
		t.Skip("no network of its own: ", err)
	}
	for name, both := range used {
		if both[0] != name || both[1] != name {
			t.Errorf("client and server use %v, want %s", both, name)
		}
	}
}

// congestionOfBoth returns the congestion control of the client's and the server's
// socket of a new connection.
func congestionOfBoth(listener net.Listener) (names []string, err error) {
	client, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	defer server.Close()
	for _, conn := range []*net.TCPConn{client, server.(*net.TCPConn)} {
		raw, err := conn.SyscallConn()
		if err != nil {
			return nil, err
		}
		var name string
		var failed error
		if err := raw.Control(func(fd uintptr) { name, failed = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) }); err != nil {
			return nil, err
		}
		if failed != nil {
			return nil, failed
		}
		names = append(names, name)
	}
	return names, nil
}
