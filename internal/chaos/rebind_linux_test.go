package chaos

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// rebindingServer is a UDP server that connects its socket to each new client and
// binds another one for the next, like iperf 2 and many DTLS servers. Between the
// two calls for its first client its port is closed to all others, for longer than
// such servers need.
type rebindingServer struct {
	addr    string
	taken   atomic.Int64 // datagrams
	clients atomic.Int64
	gaps    atomic.Int64
	stop    atomic.Bool
}

// gap is how long the port of a rebindingServer is closed.
const gap = time.Millisecond

func newRebindingServer(t *testing.T, answers bool) *rebindingServer {
	t.Helper()
	first := bindUDP(t, 0)
	local, err := unix.Getsockname(first)
	relaytest.Check(t, err)
	port := local.(*unix.SockaddrInet4).Port
	s := &rebindingServer{addr: fmt.Sprint("127.0.0.1:", port)}
	t.Cleanup(func() { s.stop.Store(true) })
	go func() { // ends when the server stops
		for fd := first; !s.stop.Load(); {
			buf := make([]byte, 2048)
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				continue // the receive timeout
			}
			connected := fd
			if s.clients.Load() == 0 { // the gap
				_ = unix.Connect(connected, from)
				s.gaps.Add(1)
				time.Sleep(gap)
				fd = bindUDP(t, port)
			} else {
				fd = bindUDP(t, port)
				_ = unix.Connect(connected, from)
			}
			s.clients.Add(1)
			s.taken.Add(1)
			go s.serve(connected, answers, buf[:n]) // ends when the server stops
		}
	}()
	return s
}

func (s *rebindingServer) serve(fd int, answers bool, first []byte) {
	defer unix.Close(fd)
	if answers {
		_, _ = unix.Write(fd, first)
	}
	buf := make([]byte, 2048)
	for !s.stop.Load() {
		n, err := unix.Read(fd, buf)
		if err != nil {
			continue // the receive timeout
		}
		s.taken.Add(1)
		if answers {
			_, _ = unix.Write(fd, buf[:n])
		}
	}
}

// bindUDP returns a socket bound to a port of 127.0.0.1. Its reads time out.
func bindUDP(t *testing.T, port int) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: netip.MustParseAddr("127.0.0.1").As4()})
	}
	if err != nil {
		t.Error("bind: ", err)
	}
	return fd
}

// Clients that arrive while a server binds a new socket reach that server, without a
// demotion, whether it answers or not. Some rounds may fail: on a busy machine, the
// server may need longer for its two calls than the relay waits.
func TestRebindingServerIsNotDemoted(t *testing.T) {
	for name, answers := range map[string]bool{"answering": true, "silent": false} {
		t.Run(name, func(t *testing.T) {
			overEngines(t, func(t *testing.T, engine dgram.Engine) {
				const rounds = 20
				demoted := 0
				for range rounds {
					if roundOfRebinding(t, engine, answers) {
						demoted++
					}
				}
				t.Logf("%d of %d servers were demoted", demoted, rounds)
				if demoted > rounds/2 {
					t.Errorf("%d of %d servers were demoted", demoted, rounds)
				}
			})
		})
	}
}

// roundOfRebinding sends the datagrams of four clients through a relay, and reports
// whether the first of its two servers was demoted.
func roundOfRebinding(t *testing.T, engine dgram.Engine, answers bool) (demoted bool) {
	t.Helper()
	first, second := newRebindingServer(t, answers), newRebindingServer(t, answers)
	defer first.stop.Store(true)
	defer second.stop.Store(true)
	s := newService(t, engine, nil, first.addr, second.addr)
	defer s.Close()
	var clients [4]*client
	for i := range clients {
		clients[i] = s.newClient()
	}
	clients[0].send("x")
	for first.clients.Load() == 0 && first.gaps.Load() == 0 {
		time.Sleep(10 * time.Microsecond)
	}
	for _, c := range clients[1:] {
		c.send("x")
	}
	relaytest.Eventually(t, "datagrams at the servers", func() bool {
		for _, c := range clients {
			c.send("x")
		}
		return first.taken.Load()+second.taken.Load() >= 10*int64(len(clients))
	})
	for _, b := range s.Stats(time.Now()).Backends {
		demoted = demoted || b.Networks[upstream.UDP].Demotions > 0
	}
	return demoted
}
