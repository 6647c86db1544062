package lab

import (
	"errors"
	"os"
	"testing"

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
			if d, ok := parse(buf[:n]); ok {
				receive(tun, d)
			}
		}
	}()
	return tun
}

// Send sends packets to this machine.
func (tun *TUN) Send(packets ...[]byte) {
	for _, packet := range packets {
		_, _ = tun.file.Write(packet) // fails only once the device is closed
	}
}
