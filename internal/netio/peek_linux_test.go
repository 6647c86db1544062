package netio

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A datagram that was peeked at is still received, also an empty one.
func TestPeekNonblock(t *testing.T) {
	for _, text := range []string{"first", ""} {
		fd, at := listening(t, "127.0.0.1")
		if err := PeekNonblock(fd); !errors.Is(err, unix.EAGAIN) {
			t.Fatalf("error %v, want EAGAIN", err)
		}
		relaytest.Check(t, unix.Sendto(fd, []byte(text), 0, &unix.SockaddrInet4{Port: int(at.Port()), Addr: [4]byte{127, 0, 0, 1}}))
		relaytest.Check(t, PeekNonblock(fd))
		wantReceived(t, receiver(t), fd, at, [][]byte{[]byte(text)})
	}
}

func TestPeekNonblockReturnsErrors(t *testing.T) {
	closed, err := net.ListenPacket("udp4", "127.0.0.1:0")
	relaytest.Check(t, err)
	at := closed.LocalAddr().(*net.UDPAddr)
	relaytest.Check(t, closed.Close())
	fd, _ := listening(t, "127.0.0.1")
	relaytest.Check(t, unix.Connect(fd, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte{127, 0, 0, 1}}))
	_, _ = unix.Write(fd, []byte("x"))
	if err := PeekNonblock(fd); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error %v, want ECONNREFUSED", err)
	}
}
