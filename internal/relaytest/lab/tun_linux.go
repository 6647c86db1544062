package lab

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// TUN is a network whose far side is the test: the test receives each packet
// that is routed to the device, and sends packets from any address.
type TUN struct{ file *os.File }

// NewTUN makes a TUN device with the prefixes of this side's addresses, such as
// 10.7.0.1/24, and calls receive with each UDP datagram that is sent to the
// device, on one goroutine.
func NewTUN(t testing.TB, receive func(*TUN, Datagram), prefixes ...string) *TUN {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("/dev/net/tun: ", err)
	}
	request, err := unix.NewIfreq("tun0")
	relaytest.Check(t, err)
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		_ = unix.Close(fd)
		t.Skip("TUNSETIFF: ", err)
	}
	tun := &TUN{file: os.NewFile(uintptr(fd), "tun")}
	t.Cleanup(func() { _ = tun.file.Close() })
	for _, prefix := range prefixes {
		run(t, "ip", "addr", "add", prefix, "dev", "tun0", "nodad")
	}
	run(t, "ip", "link", "set", "tun0", "up")
	go func() { // ends when the device is closed
		buf := make([]byte, 1<<16)
		for {
			n, err := tun.file.Read(buf)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			switch d, ok := parse(buf[:n]); {
			case !ok:
			case d.To.Port() == readyPort:
				tun.Send(d.Answer(d.Payload))
			default:
				receive(tun, d)
			}
		}
	}()
	for _, prefix := range prefixes {
		waitForRoute(t, netip.MustParsePrefix(prefix).Addr().Next())
	}
	return tun
}

// readyPort is the destination of datagrams that waitForRoute sends.
const readyPort = 1

// waitForRoute waits until datagrams pass to an address and back. For a moment
// after a device was set up, IPv6 loses what is sent to its addresses.
func waitForRoute(t testing.TB, to netip.Addr) {
	t.Helper()
	relaytest.Eventually(t, "a route to "+to.String(), func() bool {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, readyPort)))
		if err != nil {
			return false
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("ready?"))
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := conn.Read(make([]byte, 10))
		return n > 0
	})
}

// Send sends packets to this machine.
func (tun *TUN) Send(packets ...[]byte) {
	for _, packet := range packets {
		_, _ = tun.file.Write(packet) // fails only once the device is closed
	}
}
