package netio

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Descriptors are scarce while a TCP relay gets only the last ones before the
// reserve.
func TestScarce(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	relaytest.LimitDescriptors(t, 1024)
	first, _ := reserves(1024)
	for _, test := range []struct {
		fd   int
		want bool
	}{{10, false}, {first - 57, false}, {first - 56, true}, {first, true}, {10, false}} {
		Reserved(test.fd)
		if Scarce() != test.want {
			t.Errorf("descriptor %d: %v, want %v", test.fd, Scarce(), test.want)
		}
	}
}

// Whatever a relay opens, the reserved descriptors stay free for all else.
func TestReserve(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	const limit = 128
	relaytest.LimitDescriptors(t, limit)
	forUDP, forOthers := reserves(limit)
	if forUDP != limit-16 || forOthers != limit-8 {
		t.Fatalf("reserved from %d and %d", forUDP, forOthers)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer listener.Close()
	at := netip.MustParseAddrPort(listener.Addr().String())
	client, err := net.Dial("tcp", at.String()) // opened before descriptors run out, as are those below
	relaytest.Check(t, err)
	defer client.Close()
	toDetach, err := net.Dial("tcp", at.String())
	relaytest.Check(t, err)
	pending, _, err := ConnectTCPNonblock(at)
	relaytest.Check(t, err)

	fill(t, forUDP)
	if HasDescriptor() {
		t.Error("HasDescriptor found one")
	}
	wantReserved(t, "ConnectTCPNonblock", func() error { _, _, err := ConnectTCPNonblock(at); return err })
	wantReserved(t, "NewPipe", func() error { _, err := NewPipe(4096); return err })
	wantReserved(t, "a dial", func() error {
		_, err := (&net.Dialer{Control: AvoidReserve}).Dial("tcp", at.String())
		return err
	})
	wantReserved(t, "Duplicate", func() error { _, err := Duplicate(client.(*net.TCPConn)); return err })

	// A socket keeps a number outside the reserve when it changes hands.
	fd, err := Detach(toDetach.(*net.TCPConn))
	relaytest.Check(t, err)
	if Reserved(fd) {
		t.Errorf("Detach returned %d", fd)
	}
	conn, err := AwaitConnect(t.Context(), pending)
	relaytest.Check(t, err)
	defer conn.Close()
	if InReserve(conn.(*net.TCPConn)) {
		t.Error("AwaitConnect returned a reserved descriptor")
	}
	conn, err = ConnOf(fd)
	relaytest.Check(t, err)
	if InReserve(conn.(*net.TCPConn)) {
		t.Error("ConnOf returned a reserved descriptor")
	}

	// UDP sessions find some more.
	udp := 0
	for ; ; udp++ {
		fd, _, err := ConnectUDP(at)
		if err != nil {
			wantReserved(t, "ConnectUDP", func() error { return err })
			break
		}
		defer CloseDescriptor(fd)
	}
	if udp != forOthers-forUDP {
		t.Errorf("%d UDP sockets, want %d", udp, forOthers-forUDP)
	}
	wantReserved(t, "a dial", func() error {
		_, err := (&net.Dialer{Control: AvoidReserve}).DialContext(context.Background(), "udp", at.String())
		return err
	})

	// A client that was accepted into the reserve leaves it once there is room.
	far, err := listener.Accept()
	relaytest.Check(t, err)
	inReserve := far.(*net.TCPConn)
	if !InReserve(inReserve) {
		t.Fatal("the client is not in the reserve")
	}
	if _, ok := LeaveReserve(inReserve); ok {
		t.Error("there was room outside the reserve")
	}
	_ = conn.Close()
	_ = client.Close()
	left, ok := LeaveReserve(inReserve)
	if !ok || InReserve(left) {
		t.Error("the client did not leave the reserve")
	}
	_, err = left.Write([]byte("x"))
	relaytest.Check(t, err)
	relaytest.Check(t, left.Close())

	// All else finds the whole reserve.
	for range limit - forOthers {
		file, err := os.Open(os.DevNull)
		relaytest.Check(t, err)
		defer file.Close()
	}
}

// fill opens descriptors until the next one would have a number.
func fill(t *testing.T, next int) {
	t.Helper()
	for {
		fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		relaytest.Check(t, err)
		if fd >= next {
			relaytest.Check(t, syscall.Close(fd))
			return
		}
	}
}

func wantReserved(t *testing.T, what string, open func() error) {
	t.Helper()
	err := open()
	if !OutOfDescriptors(err) || Classify(err) != Exhausted {
		t.Errorf("%s: %v", what, err)
	}
	if udp := new(reservedError); !errors.As(err, udp) {
		t.Errorf("%s: %v", what, err)
	}
}
