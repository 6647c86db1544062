package dgram

import (
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// A spare socket is the socket of an ended session, kept for a new session.
// Opening and closing a socket is a quarter of the cost of a session with one
// query and one answer.
//
// Nothing that was sent to the ended session may reach the new one. A new port,
// which has rested (see portMemory), is not enough: the kernel finds the socket of
// a packet before packet filters see it, and a filter that holds the packet, such
// as NFQUEUE, passes it to that socket afterwards, whatever port and peer the
// socket has by then. A reused socket therefore accepts only datagrams whose
// destination is its current port.

const (
	// maxSpares bounds the spare sockets of an engine.
	maxSpares = 1024
	// pauseTime is how long a spare socket is not connected again after it was
	// disconnected. Another processor that looks up the socket of a packet may be
	// at this socket in the kernel's table. If the socket moved to another place
	// in the table meanwhile, the lookup would fail, and a packet of another
	// socket would be lost.
	pauseTime = 5 * time.Millisecond
	// keepTime is how long a spare socket is kept. If new sessions are rarer
	// than that, the cost of opening a socket for each does not matter.
	keepTime = 250 * time.Millisecond
)

// spareLimit returns maxSpares, or less if the process may have few descriptors:
// TCP connections need descriptors too and cannot take those of spare sockets.
func spareLimit() int { return min(maxSpares, netio.SessionLimit()/8) }

// spares are the spare sockets of an engine.
type spares struct {
	mu       sync.Mutex // guards the fields below; may be locked while a loopSocket's mu is held, and never the other way round
	limit    int        // 0: none are kept
	ipv4     spareList
	ipv6     spareList
	sweeping bool // sweep will be called
}

type spare struct {
	socket *loopSocket
	since  time.Time
}

// spareList holds spare sockets in the order in which they became spare. They are
// used from the front.
type spareList struct {
	all  []spare
	used int // how many at the front of all are empty
}

func (l *spareList) len() int { return len(l.all) - l.used }

// first returns the socket in front, or the zero spare if there is none.
func (l *spareList) first() spare {
	if l.len() == 0 {
		return spare{}
	}
	return l.all[l.used]
}

// removeFirst removes the socket in front.
func (l *spareList) removeFirst() {
	l.all[l.used] = spare{}
	l.used++
	if l.used == len(l.all) {
		l.all, l.used = l.all[:0], 0
	}
}

// push adds a socket. It reuses the memory in front if that is at least half.
func (l *spareList) push(socket spare) {
	if l.used > 0 && len(l.all) == cap(l.all) && l.used >= l.len() {
		n := copy(l.all, l.all[l.used:])
		clear(l.all[n:])
		l.all, l.used = l.all[:n], 0
	}
	l.all = append(l.all, socket)
}

func (s *spares) list(ipv4 bool) *spareList {
	if ipv4 {
		return &s.ipv4
	}
	return &s.ipv6
}

// put adds a socket. It returns false if the limit is reached.
func (s *spares) put(socket *loopSocket, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ipv4.len()+s.ipv6.len() >= s.limit {
		return false
	}
	s.list(socket.ipv4).push(spare{socket, now})
	if !s.sweeping {
		s.sweeping = true
		time.AfterFunc(keepTime, s.sweep)
	}
	return true
}

// keepNone closes the spare sockets and keeps none from now on.
func (s *spares) keepNone() {
	s.mu.Lock()
	s.limit = 0
	s.mu.Unlock()
	s.closeKept(time.Now(), 0)
}

// take removes and returns the socket that was kept longest, or nil if none was
// kept for at least that long.
func (s *spares) take(ipv4 bool, now time.Time, kept time.Duration) *loopSocket {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list(ipv4)
	first := list.first()
	if first.socket == nil || now.Sub(first.since) < kept {
		return nil
	}
	list.removeFirst()
	return first.socket
}

// sweep closes the sockets that have not been used for keepTime, and runs again
// after keepTime if others remain.
func (s *spares) sweep() {
	s.closeKept(time.Now(), keepTime)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sweeping = s.ipv4.len()+s.ipv6.len() > 0; s.sweeping {
		time.AfterFunc(keepTime, s.sweep)
	}
}

// closeKept closes the sockets that were kept for at least that long, and reports
// whether there were any.
func (s *spares) closeKept(now time.Time, kept time.Duration) (closed bool) {
	for _, ipv4 := range []bool{true, false} {
		for socket := s.take(ipv4, now, kept); socket != nil; socket = s.take(ipv4, now, kept) {
			socket.close()
			closed = true
		}
	}
	return closed
}

// CloseSpares implements [Engine].
func (e *loops) CloseSpares() bool { return e.spares.closeKept(time.Now(), 0) }

// reuse connects a spare socket that was kept for at least that long. It returns
// nil if there is none or it cannot be connected.
func (e *loops) reuse(o *opening, kept time.Duration) *loopSocket {
	s := e.spares.take(o.addr.Addr().Unmap().Is4(), o.now, kept)
	if s == nil {
		return nil
	}
	if !s.reconnect(o, e.features) {
		s.close()
		return nil
	}
	return s
}

// reconnect gives the socket another peer and port. It returns false if that
// fails.
func (s *loopSocket) reconnect(o *opening, features netio.Features) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed.Load() {
		return false // another error of the ended session may be pending
	}
	if !s.reused && netio.EnableDestinations(s.fd, s.ipv4) != nil {
		return false
	}
	s.reused = true
	port, err := netio.ReconnectUDP(s.fd, o.addr)
	if err != nil || port == s.port {
		return false
	}
	s.port, s.sink = port, o.sinkOf(port)
	s.started.Store(false)
	s.sender.Init(features)
	return true
}

// makeSpare disconnects the socket and keeps it for another session. It returns
// false if the socket had an error or there are enough spare sockets.
func (s *loopSocket) makeSpare(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spares == nil || s.failed.Load() || s.sender.Stopped() {
		return false
	}
	s.sink, s.failures = discard{}, 0
	return netio.DisconnectUDP(s.fd) == nil && s.spares.put(s, now)
}

// discard is a [Sink] that drops what arrives after the end of a session.
type discard struct{}

// Datagrams implements [Sink].
func (discard) Datagrams([][]byte) {}

// Failed implements [Sink].
func (discard) Failed(error) {}
