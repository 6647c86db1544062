package dgram

import (
	"net/netip"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// A spare socket is the socket of an ended session, kept for a new session.
// Opening and closing a socket is a fifth of the cost of a session with one
// query and one answer. A spare socket has no peer and no port, so nothing
// reaches it, and the next session gets another port.

const (
	// maxSpares bounds the spare sockets of an engine.
	maxSpares = 256
	// restTime is how long a spare socket rests before it is used again. What
	// was on its way to the old port when the port was released, in the kernel
	// or on another processor, has arrived well before that, and is discarded.
	restTime = 5 * time.Millisecond
	// keepTime is how long a spare socket is kept. If new sessions are rarer
	// than that, the cost of opening a socket for each does not matter.
	keepTime = 250 * time.Millisecond
)

// spareLimit returns maxSpares, or less if the process may have few descriptors:
// TCP connections need descriptors too and cannot take those of spare sockets.
func spareLimit() int { return min(maxSpares, netio.SessionLimit()/8) }

// spares are the spare sockets of an engine. Both lists are ordered by the time
// when the sockets became spare, and are used from the front.
type spares struct {
	limit int // set once; 0: none are kept

	mu       sync.Mutex // guards the fields below; may be locked while a loopSocket's mu is held, and never the other way round
	ipv4     []spare
	ipv6     []spare
	sweeping bool // sweep will be called
}

type spare struct {
	socket *loopSocket
	since  time.Time
}

func (s *spares) list(ipv4 bool) *[]spare {
	if ipv4 {
		return &s.ipv4
	}
	return &s.ipv6
}

// put adds a socket that has no peer. It returns false if the limit is reached.
func (s *spares) put(socket *loopSocket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ipv4)+len(s.ipv6) >= s.limit {
		return false
	}
	list := s.list(socket.ipv4)
	*list = append(*list, spare{socket, time.Now()})
	if !s.sweeping {
		s.sweeping = true
		time.AfterFunc(keepTime, s.sweep)
	}
	return true
}

// take removes and returns the socket that has rested longest, or nil if none
// has rested for at least that long.
func (s *spares) take(ipv4 bool, rested time.Duration) *loopSocket {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list(ipv4)
	if len(*list) == 0 || time.Since((*list)[0].since) < rested {
		return nil
	}
	first := (*list)[0].socket
	(*list)[0] = spare{}
	*list = (*list)[1:]
	return first
}

// sweep closes the sockets that have not been used for keepTime, and runs again
// after keepTime if others remain.
func (s *spares) sweep() {
	s.closeRested(keepTime)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sweeping = len(s.ipv4)+len(s.ipv6) > 0; s.sweeping {
		time.AfterFunc(keepTime, s.sweep)
	}
}

// closeRested closes the sockets that have rested for at least that long, and
// reports whether there were any.
func (s *spares) closeRested(rested time.Duration) (closed bool) {
	for _, ipv4 := range []bool{true, false} {
		for socket := s.take(ipv4, rested); socket != nil; socket = s.take(ipv4, rested) {
			socket.close()
			closed = true
		}
	}
	return closed
}

// reuse connects a spare socket that has rested for at least that long. It
// returns nil if there is none or it cannot be connected.
func (e *loops) reuse(addr netip.AddrPort, sink Sink, rested time.Duration) *loopSocket {
	s := e.spares.take(addr.Addr().Unmap().Is4(), rested)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	err := netio.ReconnectUDP(s.fd, addr)
	if err == nil {
		s.sender.Init(e.features)
		s.sink = sink
	}
	s.mu.Unlock()
	if err != nil {
		s.close()
		return nil
	}
	return s
}

// makeSpare disconnects the socket and keeps it for another session. It returns
// false if the socket is broken or there are enough spare sockets.
func (s *loopSocket) makeSpare() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spares == nil || s.failures >= maxFailures {
		return false
	}
	s.sink, s.failures = discard{}, 0
	return netio.DisconnectUDP(s.fd) == nil && s.spares.put(s)
}

// discard is a [Sink] that drops what arrives after the end of a session.
type discard struct{}

// Datagrams implements [Sink].
func (discard) Datagrams([][]byte) {}

// Failed implements [Sink].
func (discard) Failed(error) {}
