package netio

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// An entry names the host that sent the ICMP error and the destination of the
// datagram. The queue then is empty.
func TestReadError(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			free, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
			if err != nil && host == "::1" {
				t.Skip(err)
			}
			relaytest.Check(t, err)
			at := netip.MustParseAddrPort(free.LocalAddr().String())
			relaytest.Check(t, free.Close())
			fd, _, err := ConnectUDP(at)
			relaytest.Check(t, err)
			defer CloseDescriptor(fd)
			if _, err := ReadErrorNonblock(fd); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("%v from an empty queue, want EAGAIN", err)
			}
			relaytest.Check(t, unix.Sendto(fd, []byte("a"), 0, nil))
			var got QueuedError
			relaytest.Eventually(t, "an ICMP error", func() bool {
				got, err = ReadErrorNonblock(fd)
				return err == nil
			})
			if want := (QueuedError{Errno: syscall.ECONNREFUSED, From: at.Addr(), To: at}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if _, err := ReadErrorNonblock(fd); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("%v after the last entry, want EAGAIN", err)
			}
			if peer, err := PeerAddr(fd); err != nil || peer != at {
				t.Errorf("peer %v, %v, want %v", peer, err, at)
			}
		})
	}
}

// An empty queue is reported, also by an emulator that makes no call for a message
// without a vector.
func TestReadErrorOfEmptyQueue(t *testing.T) {
	fd, _, err := ConnectUDP(netip.MustParseAddrPort("127.0.0.1:9")) // which sends nothing
	relaytest.Check(t, err)
	defer CloseDescriptor(fd)
	if _, err := ReadErrorNonblock(fd); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("%v, want EAGAIN", err)
	}
}

// entry returns the control message of an ICMP error.
func entry(level, kind int, e unix.SockExtendedErr) []byte {
	message := make([]byte, unix.CmsgSpace(16+unix.SizeofSockaddrInet4))
	cmsg := (*unix.Cmsghdr)(unsafe.Pointer(&message[0]))
	cmsg.Level, cmsg.Type = int32(level), int32(kind)
	cmsg.SetLen(unix.CmsgLen(16 + unix.SizeofSockaddrInet4))
	*(*unix.SockExtendedErr)(unsafe.Pointer(&message[unix.CmsgLen(0)])) = e
	return message
}

// A reassembly timeout concerns one datagram; a time to live that ran out does not.
func TestQueuedErrorFragment(t *testing.T) {
	for _, test := range []struct {
		level, kind  int
		origin       uint8
		message      uint8
		code         uint8
		ok, fragment bool
	}{
		{unix.IPPROTO_IP, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 11, 0, true, false},
		{unix.IPPROTO_IP, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 11, 1, true, true},
		{unix.IPPROTO_IP, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 3, 1, true, false},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.SO_EE_ORIGIN_ICMP6, 3, 1, true, true},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.SO_EE_ORIGIN_ICMP6, 3, 0, true, false},
		{unix.IPPROTO_IP, unix.IP_RECVERR, unix.SO_EE_ORIGIN_LOCAL, 0, 0, false, false},
	} {
		control := entry(test.level, test.kind, unix.SockExtendedErr{Errno: uint32(unix.EHOSTUNREACH), Origin: test.origin, Type: test.message, Code: test.code})
		got, ok := queuedError(control)
		if ok != test.ok || got.Fragment != test.fragment || ok && got.Errno != syscall.EHOSTUNREACH {
			t.Errorf("%+v: got %+v, %v", test, got, ok)
		}
		for n := range control { // cut off
			queuedError(control[:n])
			DestinationPort(control[:n])
		}
	}
}
