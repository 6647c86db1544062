package netio

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A receiver returns the same of a datagram whether it reads one or a batch, in any
// order, and no control messages of an earlier datagram.
func TestReceiveOneFrom(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		t.Run(network, func(t *testing.T) {
			host := map[string]string{"udp4": "127.0.0.1", "udp6": "::1"}[network]
			socket, err := net.ListenUDP(network, &net.UDPAddr{IP: net.ParseIP(host)})
			relaytest.Check(t, err)
			defer socket.Close()
			relaytest.Check(t, EnablePacketInfo(socket))
			client, err := net.DialUDP(network, nil, socket.LocalAddr().(*net.UDPAddr))
			relaytest.Check(t, err)
			defer client.Close()
			from := client.LocalAddr().(*net.UDPAddr).AddrPort()
			r, err := NewReceiver(true)
			relaytest.Check(t, err)
			defer r.Free()
			raw, err := socket.SyscallConn()
			relaytest.Check(t, err)

			for i, one := range []bool{true, false, true, true, false} {
				sent := strings.Repeat("x", i*100) // the first is empty
				_, err := client.Write([]byte(sent))
				relaytest.Check(t, err)
				receive := r.ReceiveNonblock
				if one {
					receive = r.ReceiveOneFromNonblock
				}
				var got [][]byte
				relaytest.Check(t, raw.Read(func(fd uintptr) bool {
					got, err = receive(int(fd))
					return !errors.Is(err, syscall.EAGAIN)
				}))
				relaytest.Check(t, err)
				if len(got) != 1 || string(got[0]) != sent {
					t.Fatalf("datagram %d: received %q, want %q", i, got, sent)
				}
				if sender := r.From(0); netip.AddrPortFrom(sender.Addr().Unmap(), sender.Port()) != from {
					t.Errorf("datagram %d is from %s, want %s", i, sender, from)
				}
				if control := r.Control(0); (len(control) > 0) == one {
					t.Errorf("datagram %d, read alone: %t, has %d bytes of control messages", i, one, len(control))
				}
			}
		})
	}
}
