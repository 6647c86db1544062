package dgram

import (
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A watched socket is reported until its datagrams are read, and not after stop.
// Without sockets, the loop ends.
func TestWatch(t *testing.T) {
	relaytest.NoLeaks(t)
	e := newLoops(2, nil)
	e.StopWhenIdle()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	relaytest.Check(t, err)
	near, err := net.Dial("udp4", conn.LocalAddr().String())
	relaytest.Check(t, err)
	defer near.Close()
	socket, err := netio.DetachUDP(conn)
	relaytest.Check(t, err)
	defer socket.Close()

	var calls atomic.Int32
	got := make(chan string, 10)
	buf := make([]byte, 100)
	var stop func()
	relaytest.Check(t, socket.Control(func(fd uintptr) {
		stop, err = e.Watch(int(fd), func() {
			if calls.Add(1)%3 != 0 { // read it in the third turn only
				return
			}
			n, _, _ := syscall.Recvfrom(int(fd), buf, syscall.MSG_DONTWAIT)
			got <- string(buf[:n])
		})
	}))
	relaytest.Check(t, err)
	for _, text := range []string{"a", "b"} {
		_, err = near.Write([]byte(text))
		relaytest.Check(t, err)
		if datagram := relaytest.Receive(t, "the datagram", got); datagram != text {
			t.Errorf("got %q, want %q", datagram, text)
		}
	}
	stop()
	_, err = near.Write([]byte("c"))
	relaytest.Check(t, err)
	other := relaytest.NewUDPBackend(t, relaytest.Echo)
	for range 2 { // one socket in each loop
		sink := new(collector)
		s := openSocket(t, e, other.Addr, sink)
		relaytest.Check(t, send(s, []byte("x")))
		relaytest.Eventually(t, "the echo", func() bool { n, _ := sink.count(); return n == 1 })
		s.Close()
	}
	if n := calls.Load(); n != 6 {
		t.Errorf("%d calls, want 6", n)
	}
}

// A busy socket is read also while the loop of the other sockets is blocked. Its loop
// ends at once with its last socket after StopWhenIdle.
func TestWatchBusy(t *testing.T) {
	relaytest.NoLeaks(t)
	e := newLoops(1, nil)
	before := relaytest.OpenDescriptors(t)
	var sockets [2]*netio.Unpolled
	var near [2]net.Conn
	for i := range sockets {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		relaytest.Check(t, err)
		near[i], err = net.Dial("udp4", conn.LocalAddr().String())
		relaytest.Check(t, err)
		sockets[i], err = netio.DetachUDP(conn)
		relaytest.Check(t, err)
	}
	blocked, release := make(chan struct{}), make(chan struct{})
	got := make(chan string, 1)
	read := func(socket *netio.Unpolled) string {
		buf, n := make([]byte, 100), 0
		_ = socket.Control(func(fd uintptr) { n, _, _ = syscall.Recvfrom(int(fd), buf, syscall.MSG_DONTWAIT) })
		return string(buf[:n])
	}
	watch := func(i int, watch func(int, func()) (func(), error), readable func()) (stop func()) {
		var err error
		relaytest.Check(t, sockets[i].Control(func(fd uintptr) { stop, err = watch(int(fd), readable) }))
		relaytest.Check(t, err)
		return stop
	}
	stop := watch(0, e.Watch, func() {
		blocked <- struct{}{}
		<-release
		read(sockets[0])
	})
	stopBusy := watch(1, e.WatchBusy, func() { got <- read(sockets[1]) })
	_, err := near[0].Write([]byte("a"))
	relaytest.Check(t, err)
	relaytest.Receive(t, "the loop to be blocked", blocked)
	for _, text := range []string{"b", "c"} {
		_, err = near[1].Write([]byte(text))
		relaytest.Check(t, err)
		if datagram := relaytest.Receive(t, "the datagram", got); datagram != text {
			t.Errorf("got %q, want %q", datagram, text)
		}
	}
	close(release)
	stop()
	stopBusy()
	e.StopWhenIdle()
	for i := range sockets {
		relaytest.Check(t, sockets[i].Close())
		relaytest.Check(t, near[i].Close())
	}
	if now := relaytest.OpenDescriptors(t); now > before {
		t.Errorf("%d descriptors, were %d", now, before)
	}
}
