package chaos

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// The narrow path of the lab loses datagrams that are too large, and the sender
// learns it.
func TestNarrowPathOfLab(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	router, far := lab.NewHost(t, "router"), lab.NewHost(t, "far")
	router.Link(t, "10.30.0.1/24")
	far.LinkBehind(t, router, "10.31.0.1/24", 1280)
	var conn net.PacketConn
	var err error
	relaytest.Check(t, far.Do(func() { conn, err = net.ListenPacket("udp", "10.31.0.2:0") }))
	relaytest.Check(t, err)
	defer conn.Close()
	client, err := net.Dial("udp", conn.LocalAddr().String())
	relaytest.Check(t, err)
	defer client.Close()
	raw, err := client.(*net.UDPConn).SyscallConn()
	relaytest.Check(t, err)
	relaytest.Check(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}))
	relaytest.Check(t, err)
	relaytest.Eventually(t, "EMSGSIZE", func() bool {
		_, err := client.Write(make([]byte, 1400))
		return errors.Is(err, unix.EMSGSIZE)
	})
	relaytest.Eventually(t, "a datagram that fits", func() bool { // the socket may have another error pending
		_, err := client.Write(make([]byte, 1252)) // 1280 with its headers
		return err == nil
	})
	buf := make([]byte, 2000)
	n, _, err := conn.ReadFrom(buf)
	relaytest.Check(t, err)
	if n != 1252 {
		t.Errorf("received %d bytes, want 1252", n)
	}
}
