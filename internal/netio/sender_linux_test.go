package netio

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// groups holds the sizes of datagrams to send in one call, for each way of sending.
var groups = map[string][]int{
	"one":               {100},
	"an empty one":      {0},
	"equal":             {1200, 1200, 1200, 1200},
	"a short last one":  {1200, 1200, 7},
	"an empty last one": {1200, 1200, 0},
	"empty ones":        {0, 0, 0},
	"mixed":             {5, 1200, 1200, 3, 3, 3, 0, 9000, 1, 2, 3},
	"falling":           {500, 400, 300, 200, 100},
	"largest":           {65507, 65507},
	"large equal":       {30000, 30000, 30000, 30000, 30000},
	"more than a batch": repeat(64, 150),
	"small and many":    repeat(1, 64),
}

func repeat(size, count int) (sizes []int) {
	for range count {
		sizes = append(sizes, size)
	}
	return sizes
}

// datagrams returns datagrams of these sizes, all with different contents.
func datagrams(sizes []int) (list [][]byte) {
	for i, size := range sizes {
		d := bytes.Repeat([]byte{byte(i + 1)}, size)
		if size > 4 {
			copy(d, fmt.Sprint(i))
		}
		list = append(list, d)
	}
	return list
}

// listening returns a socket on loopback with large buffers.
func listening(t *testing.T, host string) (fd int, at netip.AddrPort) {
	t.Helper()
	ip := netip.MustParseAddr(host)
	var name unix.Sockaddr = &unix.SockaddrInet6{Addr: ip.As16()}
	family := unix.AF_INET6
	if ip.Is4() {
		name, family = &unix.SockaddrInet4{Addr: ip.As4()}, unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	t.Cleanup(func() { CloseDescriptor(fd) })
	GrowBuffers(fd, 4<<20)
	if err := unix.Bind(fd, name); err != nil {
		t.Skip(err)
	}
	bound, err := unix.Getsockname(fd)
	relaytest.Check(t, err)
	port := 0
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		port = b.Port
	case *unix.SockaddrInet6:
		port = b.Port
	}
	return fd, netip.AddrPortFrom(ip, uint16(port))
}

func receiver(t *testing.T) *Receiver {
	t.Helper()
	r, err := NewReceiver(true)
	relaytest.Check(t, err)
	t.Cleanup(r.Free)
	return r
}

// wantReceived checks what a socket has received. Loopback has no delay, so all of
// it has arrived.
func wantReceived(t *testing.T, r *Receiver, fd int, from netip.AddrPort, want [][]byte) {
	t.Helper()
	for len(want) > 0 {
		got, err := r.ReceiveNonblock(fd)
		if err != nil {
			t.Fatalf("%d datagrams are missing: %v", len(want), err)
		}
		for i, d := range got {
			if i >= len(want) || !bytes.Equal(d, want[i]) {
				t.Fatalf("the datagram before the last %d has %d bytes or other contents", len(want)-i-1, len(d))
			}
			if r.From(i) != from {
				t.Fatalf("from %v, want %v", r.From(i), from)
			}
		}
		want = want[len(got):]
	}
	if got, err := r.ReceiveNonblock(fd); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("%d more: %v", len(got), err)
	}
}

// With each combination of features, the datagrams arrive as they were sent.
func TestSendAndReceive(t *testing.T) {
	for _, off := range []string{"", "gso", "batch", "gso,batch"} {
		for _, host := range []string{"127.0.0.1", "::1"} {
			t.Run(fmt.Sprintf("off=%s/%s", off, host), func(t *testing.T) {
				t.Setenv("RELAY_DISABLE", off)
				r := receiver(t)
				here, at := listening(t, host)
				near, nearAt := listening(t, host)
				connected, _, err := ConnectUDP(at)
				relaytest.Check(t, err)
				defer CloseDescriptor(connected)
				var sender Sender
				sender.Init(ProbeFeatures(near))
				to := NewPath(at, at.Addr().Is4(), nil)
				for name, sizes := range groups {
					want := datagrams(sizes)
					for what, fd := range map[string]int{"unconnected": near, "connected": connected} {
						path, from := &to, nearAt
						if what == "connected" {
							path, from = nil, localAddr(t, connected)
						}
						sent, err := sender.SendNonblock(fd, path, want)
						if err != nil || sent != len(want) {
							t.Fatalf("%s, %s: %d of %d sent: %v", name, what, sent, len(want), err)
						}
						wantReceived(t, r, here, from, want)
					}
				}
			})
		}
	}
}

func localAddr(t *testing.T, fd int) netip.AddrPort {
	t.Helper()
	name, err := unix.Getsockname(fd)
	relaytest.Check(t, err)
	if four, ok := name.(*unix.SockaddrInet4); ok {
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), uint16(four.Port))
	}
	six := name.(*unix.SockaddrInet6)
	return netip.AddrPortFrom(netip.AddrFrom16(six.Addr), uint16(six.Port))
}

// The kernel supports no GSO for a socket without checksums.
func TestSegmentsRefused(t *testing.T) {
	r := receiver(t)
	here, at := listening(t, "127.0.0.1")
	near, from := listening(t, "127.0.0.1")
	features := ProbeFeatures(near)
	if !features.Segments {
		t.Skip("this kernel has no UDP_SEGMENT")
	}
	relaytest.Check(t, unix.SetsockoptInt(near, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1))
	var sender Sender
	sender.Init(features)
	to := NewPath(at, true, nil)
	for _, size := range []int{1200, 900, 1500, 1} {
		want := datagrams(repeat(size, 20))
		sent, err := sender.SendNonblock(near, &to, want)
		if err != nil || sent != len(want) {
			t.Fatalf("%d sent: %v", sent, err)
		}
		wantReceived(t, r, here, from, want)
		if whole := sender.unsegmented(&to.refused); whole > size {
			t.Errorf("segments of %d bytes were refused, but GSO is still used up to %d", size, whole-1)
		}
	}
	// An error that also occurs without GSO does not limit GSO.
	sender.Init(features)
	invalid := NewPath(netip.MustParseAddrPort("127.0.0.1:0"), true, nil)
	if sent, err := sender.SendNonblock(near, &invalid, datagrams([]int{100, 100})); sent != 0 || err == nil {
		t.Errorf("%d sent to port 0: %v", sent, err)
	}
	if whole := sender.unsegmented(&invalid.refused); whole != maxSegmented {
		t.Errorf("GSO is limited to less than %d bytes", whole)
	}
}

// A path that refuses GSO does not affect other paths of the same socket.
func TestSegmentsRefusedByOnePath(t *testing.T) {
	r := receiver(t)
	here, at := listening(t, "127.0.0.1")
	near, from := listening(t, "127.0.0.1")
	var sender Sender
	sender.Init(ProbeFeatures(near))
	if !sender.segments {
		t.Skip("no GSO")
	}
	narrow, wide := NewPath(at, true, nil), NewPath(at, true, nil)
	relaytest.Check(t, unix.SetsockoptInt(near, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)) // refuses GSO
	want := datagrams(repeat(1200, 20))
	if sent, err := sender.SendNonblock(near, &narrow, want); err != nil || sent != len(want) {
		t.Fatalf("%d sent: %v", sent, err)
	}
	wantReceived(t, r, here, from, want)
	if got := sender.unsegmented(&narrow.refused); got > 1200 {
		t.Errorf("the narrow path uses GSO below %d bytes", got)
	}
	if got := sender.unsegmented(&wide.refused); got != maxSegmented {
		t.Errorf("the other path uses GSO below %d bytes only", got)
	}
}

// limitSegments keeps the smallest size.
func TestLimitSegments(t *testing.T) {
	var s Sender
	s.Init(Features{Segments: true})
	for _, step := range []struct{ refused, want int }{{1400, 1400}, {9000, 1400}, {1, 1}, {500, 1}} {
		if limitSegments(&s.refused, step.refused); s.unsegmented(&s.refused) != step.want {
			t.Errorf("after %d: %d, want %d", step.refused, s.unsegmented(&s.refused), step.want)
		}
	}
}

func TestSegments(t *testing.T) {
	for _, c := range []struct {
		sizes       []int
		whole, want int
	}{
		{[]int{0, 0}, maxSegmented, 1},
		{[]int{5, 5, 5}, maxSegmented, 3},
		{[]int{5, 5, 6}, maxSegmented, 2},
		{[]int{5, 5, 4, 4}, maxSegmented, 3},
		{[]int{5, 5, 0}, maxSegmented, 2},
		{[]int{5, 5}, 5, 1},
		{[]int{5, 5}, 6, 2},
		{[]int{5, 5}, 1, 1},
		{[]int{30000, 30000, 30000}, maxSegmented, 2},
		{repeat(1, 100), maxSegmented, Batch},
	} {
		if got := segments(datagrams(c.sizes), c.whole); got != c.want {
			t.Errorf("%v below %d: %d, want %d", c.sizes, c.whole, got, c.want)
		}
	}
}

// Send returns how many datagrams were sent before the one that failed.
func TestSendReturnsSent(t *testing.T) {
	r := receiver(t)
	here, at := listening(t, "127.0.0.1")
	fd, _, err := ConnectUDP(at)
	relaytest.Check(t, err)
	defer CloseDescriptor(fd)
	for _, off := range []string{"", "gso", "batch"} {
		t.Setenv("RELAY_DISABLE", off)
		var sender Sender
		sender.Init(ProbeFeatures(fd))
		list := datagrams([]int{10, 20, 65508, 10})
		sent, err := sender.SendNonblock(fd, nil, list)
		if sent != 2 || !TooBig(err) {
			t.Errorf("off=%s: %d sent, %v", off, sent, err)
		}
		wantReceived(t, r, here, localAddr(t, fd), list[:2])
	}
}

func TestGrowBuffers(t *testing.T) {
	fd, _ := listening(t, "127.0.0.1")
	const size = 100 << 10 // within the limits of any system
	if receive, send := GrowBuffers(fd, size); receive != size || send != size {
		t.Errorf("got %d and %d", receive, send)
	}
}
