package listen

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// backlog is the most new clients that may wait to be accepted. Datagrams of
// further ones are dropped.
const backlog = 1024

// UDPListener is one config's listener on a shared UDP socket. It accepts a [Conn]
// for each new client.
type UDPListener struct {
	socket *udpSocket
	opts   Options
	conns  chan *Conn
	done   chan struct{}
	once   sync.Once
}

func (l *UDPListener) options() Options { return l.opts }

// UDP opens a listener on an address.
func (s *Sockets) UDP(at netip.AddrPort, opts Options) (*UDPListener, error) {
	s.binding.Lock()
	defer s.binding.Unlock()
	socket := s.joinUDP(at)
	opened := socket == nil
	if opened {
		conn, shared, err := s.open("udp", at, listenUDP)
		if err != nil {
			return nil, err
		}
		socket = newUDPSocket(s, at, conn.(*net.UDPConn))
		receive, send := growBuffers(socket.conn, socketBuffer)
		socket.logLimits(opts.Log, receive, send)
		socket.detach()
		s.mu.Lock()
		s.udp[at] = socket
		s.mu.Unlock()
		if shared {
			s.endSharingOf("udp", at.Port(), opts.Log)
		}
	}
	l := &UDPListener{socket: socket, opts: opts, conns: make(chan *Conn, backlog), done: make(chan struct{})}
	if err := socket.listeners.add(l, at.String()); err != nil {
		socket.leave()
		return nil, err
	}
	if opened {
		s.start(socket)
	}
	return l, nil
}

// joinUDP adds a user of the socket that is open on an address and returns the
// socket. It returns nil if there is none. It waits for one that is closing, so
// the address can be bound afterwards.
func (s *Sockets) joinUDP(at netip.AddrPort) *udpSocket {
	for {
		s.mu.Lock()
		socket := s.udp[at]
		s.mu.Unlock()
		if socket == nil || socket.join() {
			return socket
		}
		<-socket.released
	}
}

// Accept implements net.Listener.
func (l *UDPListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, fmt.Errorf("accept on %s: %w", l.socket.at, net.ErrClosed)
	}
}

// Addr implements net.Listener.
func (l *UDPListener) Addr() net.Addr { return l.socket.conn.LocalAddr() }

// Close closes this listener. Accepted clients continue. Clients that wait to be
// accepted go to the listener that is the latest now.
func (l *UDPListener) Close() error {
	l.once.Do(func() {
		if l.socket.forNextProcess(l) {
			stopTaking(l.socket) // without a listener, it would drop the datagrams of new clients
		}
		l.socket.listeners.remove(l)
		close(l.done)
		l.passWaiting()
		l.socket.leave()
	})
	return nil
}

// offer queues a client for Accept and reports whether there was room.
func (l *UDPListener) offer(c *Conn) bool {
	select {
	case l.conns <- c:
	default:
		return false
	}
	select {
	case <-l.done: // closed meanwhile
		l.passWaiting()
	default:
	}
	return true
}

// passWaiting passes the clients that this closed listener has not accepted to the
// latest listener.
func (l *UDPListener) passWaiting() {
	for {
		select {
		case c := <-l.conns:
			c.socket.pass(c)
		default:
			return
		}
	}
}
