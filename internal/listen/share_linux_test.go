package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// An empty host accepts IPv4 and IPv6 clients; 0.0.0.0 accepts IPv4 clients only.
func TestFamilies(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	wide, four := freeAddr(t, ""), freeAddr(t, "0.0.0.0")
	both, only4 := openTCP(t, s, wide), openTCP(t, s, four)
	for _, host := range []string{"127.0.0.1", "::1"} {
		near := dial(t, "tcp", to(host, wide))
		far := accepted[net.Conn](t, both)
		if got := far.RemoteAddr().String(); got != near.LocalAddr().String() {
			t.Errorf("the client is %s, want %s", got, near.LocalAddr())
		}
	}
	dial(t, "tcp", to("127.0.0.1", four))
	accepted[net.Conn](t, only4)
	if conn, err := net.Dial("tcp", to("::1", four)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("IPv6 at 0.0.0.0: %v, %v", conn, err)
	}
}

// A reload may change an address to a wider or narrower one. Then both are open for
// a while.
func TestOverlappingAddresses(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			relaytest.NoLeaks(t)
			s := NewSockets()
			open := func(at netip.AddrPort) net.Listener {
				if network == "tcp" {
					return openTCP(t, s, at)
				}
				return openUDP(t, s, at)
			}
			narrow := freeAddr(t, "127.0.0.1")
			wide, four := address(t, "", narrow.Port()), address(t, "0.0.0.0", narrow.Port())
			wantServed := func(l net.Listener) {
				t.Helper()
				near := dial(t, network, narrow.String())
				send(t, near, "hello")
				wantRead(t, accepted[net.Conn](t, l), "hello")
			}
			current := open(narrow)
			wantServed(current)
			for _, at := range []netip.AddrPort{wide, narrow, four, wide, four, narrow} {
				next := open(at)
				relaytest.Check(t, current.Close())
				endAll(s)
				wantServed(next)
				current = next
			}
		})
	}
}

// A reload may replace a network of Caddy's own on the same port.
func TestShareWithCaddy(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	shared := net.ListenConfig{Control: sharePort}
	tcp, udp := freeAddr(t, ""), freeAddr(t, "")
	addConfig(t, s)
	addConfig(t, s)
	caddys, err := shared.Listen(context.Background(), "tcp", to("::", tcp))
	relaytest.Check(t, err)
	relays := openTCP(t, s, tcp)
	relaytest.Check(t, caddys.Close())
	dial(t, "tcp", to("127.0.0.1", tcp))
	accepted[net.Conn](t, relays)
	caddys, err = shared.Listen(context.Background(), "tcp", to("::", tcp)) // back to Caddy's
	relaytest.Check(t, err)
	relaytest.Check(t, caddys.Close())

	packets, err := shared.ListenPacket(context.Background(), "udp", to("::", udp))
	relaytest.Check(t, err)
	openUDP(t, s, udp)
	relaytest.Check(t, packets.Close())

	// The port of a socket without SO_REUSEPORT cannot be shared.
	other := freeAddr(t, "127.0.0.1")
	alone, err := net.Listen("tcp", other.String())
	relaytest.Check(t, err)
	defer alone.Close()
	if _, err := s.TCP(other, quiet()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
}

// wantHolder checks the error of a listener whose address is in use.
func wantHolder(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
}

// addConfig records a config with a logger that discards everything.
func addConfig(t testing.TB, s *Sockets) (end context.CancelFunc) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	s.AddConfig(ctx, zap.NewNop())
	return end
}

// waitForReload waits until no reload is in progress and ports are exclusive.
func waitForReload(t testing.TB, s *Sockets) {
	t.Helper()
	relaytest.Eventually(t, "the end of the reload", func() bool {
		s.binding.Lock()
		defer s.binding.Unlock()
		return !s.reloading()
	})
}

// Outside of a reload, a socket of this process that is not one of ours is an error
// too: its config is the current one.
func TestSharesWithCaddyOnlyInReload(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	addConfig(t, s)
	at := freeAddr(t, "127.0.0.1")
	shared := net.ListenConfig{Control: sharePort}
	caddys, err := shared.Listen(context.Background(), "tcp", at.String())
	relaytest.Check(t, err)
	defer caddys.Close()
	packets, err := shared.ListenPacket(context.Background(), "udp", at.String())
	relaytest.Check(t, err)
	defer packets.Close()
	_, err = s.TCP(at, quiet())
	wantHolder(t, err, "this process holds tcp "+at.String())
	_, err = s.UDP(at, quiet())
	wantHolder(t, err, "this process holds udp "+at.String())
}

// bindAll returns the hosts whose address another program of this user can bind.
func bindAll(network string, port uint16) (bound []string) {
	shared := net.ListenConfig{Control: sharePort}
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		at := net.JoinHostPort(host, strconv.Itoa(int(port)))
		var socket io.Closer
		var err error
		if network == "tcp" {
			socket, err = shared.Listen(context.Background(), "tcp", at)
		} else {
			socket, err = shared.ListenPacket(context.Background(), "udp", at)
		}
		if err == nil {
			bound = append(bound, host)
			socket.Close()
		}
	}
	return bound
}

// No program can bind the port of a listener, not even one of the same user that
// sets SO_REUSEPORT. A reload ends that for its own length only, whether it is
// accepted or rejected.
func TestPortIsExclusive(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		for _, change := range [][2]string{{"127.0.0.1", ""}, {"", "127.0.0.1"}, {"127.0.0.1", "0.0.0.0"}, {"0.0.0.0", ""}, {"", "0.0.0.0"}, {"127.0.0.1", "127.0.0.1"}} {
			for _, accepted := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s,%q to %q,%v", network, change[0], change[1], accepted), func(t *testing.T) {
					relaytest.NoLeaks(t)
					core, logs := observer.New(zap.WarnLevel)
					s := NewSockets()
					open := func(at netip.AddrPort) net.Listener {
						if network == "tcp" {
							return openTCP(t, s, at)
						}
						return openUDP(t, s, at)
					}
					config := func() (end context.CancelFunc) {
						ctx, end := context.WithCancel(context.Background())
						t.Cleanup(end)
						s.AddConfig(ctx, zap.New(core))
						return end
					}
					from := freeAddr(t, change[0])
					to := address(t, change[1], from.Port())
					endOld := config()
					old := open(from)
					if bound := bindAll(network, from.Port()); bound != nil {
						t.Errorf("before the reload, %v can be bound", bound)
					}
					endNew := config()
					next := open(to)
					if accepted {
						relaytest.Check(t, old.Close())
						endOld()
					} else {
						relaytest.Check(t, next.Close())
						endNew()
					}
					waitForReload(t, s)
					bound := bindAll(network, from.Port())
					if logs.FilterMessage("port not exclusive until restart").Len() > 0 {
						t.Skip("making all IPv4 and IPv6 addresses exclusive again needs CAP_NET_ADMIN")
					}
					if bound != nil {
						t.Errorf("after the reload, %v can be bound", bound)
					}
				})
			}
		}
	}
}

// While a config changes to one of Caddy's own networks, Caddy can bind the port, also
// if the config before that has not ended yet.
func TestCaddyBindsInReload(t *testing.T) {
	for _, before := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("%d configs before", before), func(t *testing.T) {
			relaytest.NoLeaks(t)
			s := NewSockets()
			var ends []context.CancelFunc
			for range before {
				ends = append(ends, addConfig(t, s))
			}
			addConfig(t, s)
			tcp, udp := freeAddr(t, ""), freeAddr(t, "")
			openTCP(t, s, tcp)
			openUDP(t, s, udp)
			ends = append(ends, addConfig(t, s))
			for network, at := range map[string]netip.AddrPort{"tcp": tcp, "udp": udp} {
				if bound := bindAll(network, at.Port()); len(bound) != 3 {
					t.Errorf("%s: only %v can be bound", network, bound)
				}
			}
			for _, end := range ends {
				end()
			}
			waitForReload(t, s)
		})
	}
}

// A config may list overlapping addresses of one of our networks. Each client goes
// to the narrower one.
func TestOverlapInOneConfig(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	addConfig(t, s)
	narrow := freeAddr(t, "127.0.0.1")
	wide := address(t, "0.0.0.0", narrow.Port())
	for _, order := range [][2]netip.AddrPort{{narrow, wide}, {wide, narrow}} {
		byAddress := make(map[netip.AddrPort]*TCPListener)
		for _, at := range order {
			byAddress[at] = openTCP(t, s, at)
		}
		dial(t, "tcp", narrow.String())
		accepted[net.Conn](t, byAddress[narrow])
		dial(t, "tcp", to("127.0.0.2", narrow))
		accepted[net.Conn](t, byAddress[wide])
		if bound := bindAll("tcp", narrow.Port()); bound != nil {
			t.Errorf("%v can be bound", bound)
		}
		for _, l := range byAddress {
			relaytest.Check(t, l.Close())
		}
	}
}

// Clients of other sockets are served while a bind waits for the list of the
// holders of its port, which is slow on a machine with many sockets.
func TestBindDelaysNoClient(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	addConfig(t, s)
	narrow, served := freeAddr(t, "127.0.0.1"), freeAddr(t, "127.0.0.1")
	openUDP(t, s, narrow)
	l := openUDP(t, s, served)
	fifo := filepath.Join(t.TempDir(), "net", "udp")
	relaytest.Check(t, os.Mkdir(filepath.Dir(fifo), 0o700))
	relaytest.Check(t, syscall.Mkfifo(fifo, 0o600))
	defer func(before string) { procSelf = before }(procSelf)
	procSelf = filepath.Dir(filepath.Dir(fifo))

	done := make(chan error, 1)
	go func() { // ends when the FIFO has a writer
		_, err := s.UDP(address(t, "0.0.0.0", narrow.Port()), quiet())
		done <- err
	}()
	relaytest.Eventually(t, "the bind to begin", func() bool {
		free := s.binding.TryLock()
		if free {
			s.binding.Unlock()
		}
		return !free
	})
	for i := range 3 {
		client := dial(t, "udp", served.String())
		send(t, client, "hello")
		conn := accepted[*Conn](t, l)
		wantRead(t, conn, "hello")
		relaytest.Check(t, conn.Reply([][]byte{[]byte("answer")}))
		wantRead(t, client, "answer")
		if i > 0 {
			conn.End()
		}
	}
	select {
	case err := <-done:
		t.Errorf("the bind did not wait: %v", err)
	default:
	}
	writer, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	relaytest.Check(t, err)
	relaytest.Check(t, os.WriteFile(fifo+".empty", nil, 0o600))
	relaytest.Check(t, os.Rename(fifo+".empty", fifo)) // for further reads
	relaytest.Check(t, writer.Close())
	if err := relaytest.Receive(t, "the bind", done); err == nil {
		t.Error("no error although the holder is unknown")
	}
}

// Listeners change between overlapping addresses where proc(5) shows processes
// only, as with ProcSubset=pid of systemd.
func TestRestrictedProc(t *testing.T) {
	const variable = "RELAY_TEST_RESTRICTED"
	if os.Getenv(variable) == "" {
		if os.Getuid() != 0 {
			t.Skip("mounting /proc needs root")
		}
		self, err := os.Executable()
		relaytest.Check(t, err)
		script := `mount -t proc -o subset=pid proc /proc || exit 77; exec "$0" -test.run="^TestRestrictedProc$" -test.v`
		cmd := exec.Command("sh", "-c", script, self)
		cmd.Env = append(os.Environ(), variable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit) && exit.ExitCode() == 77, errors.Is(err, syscall.EPERM):
			t.Skipf("this kernel cannot mount /proc with subset=pid here: %v, %s", err, out)
		case err != nil:
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if _, err := os.Stat("/proc/net"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("/proc is not restricted: %v", err)
	}
	s := NewSockets()
	narrow := freeAddr(t, "127.0.0.1")
	openTCP(t, s, narrow)
	openUDP(t, s, narrow)
	openTCP(t, s, address(t, "", narrow.Port()))
	openUDP(t, s, address(t, "", narrow.Port()))
}

const holderVariable = "RELAY_TEST_HOLD"

// The port of another program is not shared even if that program allows it: the
// kernel would give it half of the clients.
func TestPortOfAnotherProgram(t *testing.T) {
	if at := os.Getenv(holderVariable); at != "" {
		hold(t, at)
		return
	}
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	self, err := os.Executable()
	relaytest.Check(t, err)
	cmd := exec.Command(self, "-test.run=^TestPortOfAnotherProgram$")
	cmd.Env = append(os.Environ(), holderVariable+"="+at.String())
	stdin, err := cmd.StdinPipe()
	relaytest.Check(t, err)
	stdout, err := cmd.StdoutPipe()
	relaytest.Check(t, err)
	relaytest.Check(t, cmd.Start())
	line := make([]byte, 5)
	_, err = io.ReadFull(stdout, line)
	relaytest.Check(t, err)

	for _, host := range []string{"127.0.0.1", "0.0.0.0", ""} {
		wanted := address(t, host, at.Port())
		_, tcp := s.TCP(wanted, quiet())
		_, udp := s.UDP(wanted, quiet())
		for _, err := range []error{tcp, udp} {
			wantHolder(t, err, fmt.Sprintf("(pid %d) holds", cmd.Process.Pid), at.String(), map[bool]string{true: "list single addresses", false: "stop it"}[host != "127.0.0.1"])
		}
	}
	elsewhere := openTCP(t, s, address(t, "127.0.0.2", at.Port())) // an address that does not overlap
	relaytest.Check(t, elsewhere.Close())
	relaytest.Check(t, stdin.Close())
	relaytest.Check(t, cmd.Wait())
	openTCP(t, s, at)
	openUDP(t, s, at)
}

// hold runs in the other program: it holds the port until its input closes.
func hold(t *testing.T, at string) {
	shared := net.ListenConfig{Control: sharePort}
	tcp, err := shared.Listen(context.Background(), "tcp", at)
	relaytest.Check(t, err)
	defer tcp.Close()
	udp, err := shared.ListenPacket(context.Background(), "udp", at)
	relaytest.Check(t, err)
	defer udp.Close()
	_, err = os.Stdout.WriteString("holds")
	relaytest.Check(t, err)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
