package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

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
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "another program holds port") {
				t.Errorf("%s: got %v", wanted, err)
			}
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
