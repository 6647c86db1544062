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
)

// Which clients come to which address.
func TestFamilies(t *testing.T) {
	noLeaks(t)
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

// A reload may change an address to a wider or narrower one: both are open for
// a while.
func TestOverlap(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			noLeaks(t)
			s := NewSockets()
			open := func(at netip.AddrPort) net.Listener {
				if network == "tcp" {
					return openTCP(t, s, at)
				}
				return openUDP(t, s, at)
			}
			narrow := freeAddr(t, "127.0.0.1")
			wide, four := address(t, "", narrow.Port()), address(t, "0.0.0.0", narrow.Port())
			meet := func(l net.Listener) {
				t.Helper()
				near := dial(t, network, narrow.String())
				send(t, near, "hello")
				wantRead(t, accepted[net.Conn](t, l), "hello")
			}
			current := open(narrow)
			meet(current)
			for _, at := range []netip.AddrPort{wide, narrow, four, wide, four, narrow} {
				next := open(at)
				check(t, current.Close())
				endAll(s)
				meet(next)
				current = next
			}
		})
	}
}

// A network of Caddy's own on the same port, which a reload replaces.
func TestJoinCaddy(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	shared := net.ListenConfig{Control: sharePort}
	tcp, udp := freeAddr(t, ""), freeAddr(t, "")
	theirs, err := shared.Listen(context.Background(), "tcp", to("::", tcp))
	check(t, err)
	ours := openTCP(t, s, tcp)
	check(t, theirs.Close())
	dial(t, "tcp", to("127.0.0.1", tcp))
	accepted[net.Conn](t, ours)
	theirs, err = shared.Listen(context.Background(), "tcp", to("::", tcp)) // and back
	check(t, err)
	check(t, theirs.Close())

	packets, err := shared.ListenPacket(context.Background(), "udp", to("::", udp))
	check(t, err)
	openUDP(t, s, udp)
	check(t, packets.Close())

	// A socket of ours that did not ask to share is not joined.
	other := freeAddr(t, "127.0.0.1")
	alone, err := net.Listen("tcp", other.String())
	check(t, err)
	defer alone.Close()
	if _, err := s.TCP(other, quiet()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
}

const holderVariable = "RELAY_TEST_HOLD"

// Another program that shares its port with anybody is not joined: the kernel
// would give it half of our clients.
func TestAnotherProgram(t *testing.T) {
	if at := os.Getenv(holderVariable); at != "" {
		hold(t, at)
		return
	}
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	self, err := os.Executable()
	check(t, err)
	cmd := exec.Command(self, "-test.run=^TestAnotherProgram$")
	cmd.Env = append(os.Environ(), holderVariable+"="+at.String())
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	line := make([]byte, 5)
	_, err = io.ReadFull(stdout, line)
	check(t, err)

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
	beside := openTCP(t, s, address(t, "127.0.0.2", at.Port())) // another address
	check(t, beside.Close())
	check(t, stdin.Close())
	check(t, cmd.Wait())
	openTCP(t, s, at)
	openUDP(t, s, at)
}

// hold is the other program.
func hold(t *testing.T, at string) {
	shared := net.ListenConfig{Control: sharePort}
	tcp, err := shared.Listen(context.Background(), "tcp", at)
	check(t, err)
	defer tcp.Close()
	udp, err := shared.ListenPacket(context.Background(), "udp", at)
	check(t, err)
	defer udp.Close()
	_, err = os.Stdout.WriteString("holds")
	check(t, err)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
