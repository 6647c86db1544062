package handler

import (
	"net/netip"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Sockets of sessions that have ended serve the next ones: making one and
// closing it is a fifth of what a session of one question and one answer costs.
// In between they have no peer and no port, so that nothing can reach them, and
// the next session has another port than the last.

const (
	// mostSpares is how many wait for a session, at most.
	mostSpares = 256
	// restFor is how long each waits at least. What was on its way to the old
	// port, in the kernel and on another processor, as it was given back has
	// arrived long before, and is thrown away.
	restFor = 5 * time.Millisecond
	// keepFor is how long one is kept that nobody wants: where sessions come as
	// rarely, a socket for each costs nothing worth sparing.
	keepFor = 250 * time.Millisecond
)

// sparesAtMost is mostSpares, or fewer where descriptors are few: those who ask
// for one for TCP do not know of them.
func sparesAtMost() int { return min(mostSpares, netio.SessionLimit()/8) }

// spares are an engine's. Those that came first go first.
type spares struct {
	most int // set once; 0: none are kept

	mu     sync.Mutex // guards what follows, and is taken below no lock but that of a session
	ipv4   []spare
	ipv6   []spare
	sweeps bool // sweep will be called
}

type spare struct {
	socket *loopSocket
	since  time.Time
}

func (s *spares) of(ipv4 bool) *[]spare {
	if ipv4 {
		return &s.ipv4
	}
	return &s.ipv6
}

// put keeps a socket without a peer; false if there are enough of them.
func (s *spares) put(socket *loopSocket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ipv4)+len(s.ipv6) >= s.most {
		return false
	}
	list := s.of(socket.ipv4)
	*list = append(*list, spare{socket, time.Now()})
	if !s.sweeps {
		s.sweeps = true
		time.AfterFunc(keepFor, s.sweep)
	}
	return true
}

// get gives the socket that has rested longest; nil if none has for long enough.
func (s *spares) get(ipv4 bool, rested time.Duration) *loopSocket {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.of(ipv4)
	if len(*list) == 0 || time.Since((*list)[0].since) < rested {
		return nil
	}
	first := (*list)[0].socket
	(*list)[0] = spare{}
	*list = (*list)[1:]
	return first
}

// sweep closes those that have rested for too long.
func (s *spares) sweep() {
	s.drop(keepFor)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sweeps = len(s.ipv4)+len(s.ipv6) > 0; s.sweeps {
		time.AfterFunc(keepFor, s.sweep)
	}
}

// drop closes those that have rested for so long, and says whether there were any.
func (s *spares) drop(rested time.Duration) (some bool) {
	for _, ipv4 := range []bool{true, false} {
		for socket := s.get(ipv4, rested); socket != nil; socket = s.get(ipv4, rested) {
			socket.close()
			some = true
		}
	}
	return some
}

// reuse connects a spare socket, if there is one that takes it.
func (e *loops) reuse(addr netip.AddrPort, sink Sink, rested time.Duration) *loopSocket {
	s := e.spares.get(addr.Addr().Unmap().Is4(), rested)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	err := netio.ReconnectUDP(s.fd, addr)
	if err == nil {
		s.sending.Init(e.can)
		s.sink = sink
	}
	s.mu.Unlock()
	if err != nil {
		s.close()
		return nil
	}
	return s
}

// spare keeps the socket for another session; false if it is of no use to one.
func (s *loopSocket) spare() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spares == nil || s.failures >= maxFailures {
		return false
	}
	s.sink, s.failures = nobody{}, 0
	return netio.DisconnectUDP(s.fd) == nil && s.spares.put(s)
}

// nobody is a sink of what came too late.
type nobody struct{}

// Datagrams implements [Sink].
func (nobody) Datagrams([][]byte) {}

// Failed implements [Sink].
func (nobody) Failed(error) {}
