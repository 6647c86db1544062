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
// two calls its port is closed to all other clients.
type rebindingServer struct {
	addr    string
	taken   atomic.Int64 // datagrams
	clients atomic.Int64
	stop    atomic.Bool
}

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
			_ = unix.Connect(fd, from)
			for end := time.Now().Add(50 * time.Microsecond); time.Now().Before(end); { // so that a datagram is likely to arrive in the gap
			}
			connected := fd
			fd = bindUDP(t, port)
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

// Clients that arrive together reach a server that binds a new socket for each, on
// the first backend, without a demotion. The server answers, or does not.
func TestRebindingServerIsNotDemoted(t *testing.T) {
	for name, answers := range map[string]bool{"answering": true, "silent": false} {
		t.Run(name, func(t *testing.T) {
			overEngines(t, func(t *testing.T, engine dgram.Engine) {
				for range 20 {
					first, second := newRebindingServer(t, answers), newRebindingServer(t, answers)
					s := newService(t, engine, nil, first.addr, second.addr)
					const streams = 4
					var clients [streams]*client
					for i := range clients {
						clients[i] = s.newClient()
						go clients[i].send("x") // ends at once
					}
					relaytest.Eventually(t, "datagrams at a server", func() bool {
						for _, c := range clients {
							c.send("x")
						}
						return first.taken.Load()+second.taken.Load() >= 10*streams
					})
					if got := second.clients.Load(); got != 0 {
						t.Errorf("%d clients reached the second server", got)
					}
					for _, b := range s.Stats(time.Now()).Backends {
						if n := b.Networks[upstream.UDP]; n.Demotions > 0 {
							t.Errorf("%s was demoted", b.Backend.Text)
						}
					}
					first.stop.Store(true)
					second.stop.Store(true)
				}
			})
		})
	}
}
