package stream

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// loopRig is a rig whose relay runs on an event loop.
type loopRig struct {
	*rig
	m *loopMover
}

// newLoopRig starts a relay on an engine.
func newLoopRig(t testing.TB, engine *loops, s setup) *loopRig {
	t.Helper()
	r := newRig(t, kind{new: func(client Client, rules Rules, wheel *Wheel) Mover {
		return engine.NewMover(client, rules, wheel)
	}}, s)
	return &loopRig{r, r.mover.(*loopMover)}
}

// entry returns the relay's entry in its wheel.
func (m *loopMover) entry() (*Wheel, *idler) { return m.wheel, &m.idler }

// oneLoop returns an engine whose relays share a loop with one worker.
func oneLoop(t testing.TB) *loops {
	engine := newLoops(1, 1, nil)
	t.Cleanup(engine.StopWhenIdle)
	return engine
}

// sharedLoop returns an engine whose relays share a loop. Its workers share all events
// that they can.
func sharedLoop(t testing.TB, workers int) *loops {
	engine := newLoops(1, workers, nil)
	engine.all[0].poller.AlwaysHelp()
	t.Cleanup(engine.StopWhenIdle)
	return engine
}

// forEachLoop runs a test with a loop that has one worker, and with one whose workers
// share all events that they can.
func forEachLoop(t *testing.T, test func(t *testing.T, engine *loops)) {
	for workers := 1; workers <= 3; workers += 2 {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			relaytest.NoLeaks(t)
			test(t, sharedLoop(t, workers))
		})
	}
}

// held returns how many bytes the relay has read from each side and not written.
func (r *loopRig) held() (up, down int) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return len(r.m.flows[ClientSide].held), len(r.m.flows[BackendSide].held)
}

// flow returns the state of a direction.
func (m *loopMover) flow(source Side) flow {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends.flows[source]
}

// keepRunning keeps a loop running until the test ends.
func keepRunning(t testing.TB, l *loop) {
	t.Helper()
	slot, err := l.poller.Join(nil)
	relaytest.Check(t, err)
	t.Cleanup(func() {
		l.poller.Leave(slot)
		l.poller.StopIfIdle()
	})
}

// openPipe opens a pipe, which the caller closes.
func openPipe(t testing.TB) *pipe {
	t.Helper()
	p := &pipe{}
	if !p.open() {
		t.Fatal("no pipe")
	}
	return p
}

// givePipe opens the pipe that a loop will splice through, before its first relay.
// A size of 0 is the usual one.
func givePipe(t testing.TB, l *loop, size int) *pipe {
	t.Helper()
	p := openPipe(t)
	if size > 0 {
		_, err := unix.FcntlInt(uintptr(p.Pipe.Write), unix.F_SETPIPE_SZ, size)
		relaytest.Check(t, err)
	}
	l.pipe = p
	return p
}

// openFiles returns the number of all descriptors of this process, and of its
// pipes. Package net keeps some pipes until a garbage collection.
func openFiles(t testing.TB) (all, pipes int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	relaytest.Check(t, err)
	for _, file := range list {
		if to, _ := os.Readlink("/proc/self/fd/" + file.Name()); strings.HasPrefix(to, "pipe:") {
			pipes++
		}
	}
	return len(list), pipes
}

// descriptors returns the number of descriptors that are no pipes.
func descriptors(t testing.TB) int {
	t.Helper()
	all, pipes := openFiles(t)
	return all - pipes
}

// wantDescriptors waits until no more than so many descriptors are open that are
// no pipes.
func wantDescriptors(t testing.TB, most int) {
	t.Helper()
	relaytest.Eventually(t, "all descriptors to be closed", func() bool { return descriptors(t) <= most })
}

// silentServer is a TCP server that lets clients wait: its queue of connections
// is full, so that the system drops their SYNs.
type silentServer struct {
	t    testing.TB
	fd   int
	addr netip.AddrPort
	fill []int // the connections that fill the queue
}

func newSilentServer(t testing.TB) *silentServer {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	relaytest.Check(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	relaytest.Check(t, unix.Listen(fd, 0))
	addr, err := netio.LocalAddr(fd)
	relaytest.Check(t, err)
	s := &silentServer{t: t, fd: fd, addr: addr}
	t.Cleanup(func() {
		netio.CloseDescriptor(s.fd)
		for _, fd := range s.fill {
			netio.CloseDescriptor(fd)
		}
	})
	for {
		fd, done, err := netio.ConnectTCPNonblock(addr)
		relaytest.Check(t, err)
		netio.SetQuickAck(fd)
		s.fill = append(s.fill, fd)
		if !done {
			return s
		}
	}
}

// accept has the server answer, and returns the first connection that is not one
// of those that have filled the queue.
func (s *silentServer) accept() *net.TCPConn {
	s.t.Helper()
	relaytest.Check(s.t, unix.Listen(s.fd, 128))
	ours := make(map[netip.AddrPort]bool)
	for _, fd := range s.fill {
		addr, err := netio.LocalAddr(fd)
		relaytest.Check(s.t, err)
		ours[addr] = true
	}
	for deadline := time.Now().Add(relaytest.Limit); time.Now().Before(deadline); {
		ready := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(ready, 100); n <= 0 {
			continue
		}
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		relaytest.Check(s.t, err)
		file := os.NewFile(uintptr(fd), "accepted")
		conn, err := net.FileConn(file)
		relaytest.Check(s.t, err)
		relaytest.Check(s.t, file.Close())
		s.t.Cleanup(func() { conn.Close() })
		if !ours[conn.RemoteAddr().(*net.TCPAddr).AddrPort()] {
			return conn.(*net.TCPConn)
		}
	}
	s.t.Fatal("timed out waiting for a connection")
	return nil
}
