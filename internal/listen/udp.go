package listen

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// backlog is how many new clients may wait to be accepted; more are dropped.
const backlog = 1024

// UDPListener is one config's share of a UDP socket. It accepts a [Conn] for
// each new client.
type UDPListener struct {
	socket *udpSocket
	opts   Options
	conns  chan *Conn
	done   chan struct{}
	once   sync.Once
}

func (l *UDPListener) options() Options { return l.opts }

// UDP opens a listener at that address.
func (s *Sockets) UDP(at netip.AddrPort, opts Options) (*UDPListener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	socket := s.udp[at]
	opened := socket == nil
	if opened {
		conn, err := bind("udp", at, listenUDP)
		if err != nil {
			return nil, err
		}
		socket = newUDPSocket(s, at, conn.(*net.UDPConn))
		receive, send := growBuffers(socket.conn, socketBuffer)
		socket.tellLimits(opts.Log, receive, send)
	}
	l := &UDPListener{socket: socket, opts: opts, conns: make(chan *Conn, backlog), done: make(chan struct{})}
	if err := socket.listeners.add(l, at.String()); err != nil {
		return nil, err
	}
	socket.users++
	if opened {
		s.udp[at] = socket
		go socket.read()  // ends when the socket is closed
		go socket.sweep() // the same
	}
	return l, nil
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

// Close ends this config's share. Clients that were accepted go on, those that
// were not go to the listener that is the latest now.
func (l *UDPListener) Close() error {
	l.once.Do(func() {
		l.socket.listeners.remove(l)
		close(l.done)
		l.passOn()
		l.socket.leave()
	})
	return nil
}

// offer hands a client with its first datagram to a listener, and says whether
// there was room.
func (l *UDPListener) offer(c *Conn) bool {
	select {
	case l.conns <- c:
	default:
		return false
	}
	select {
	case <-l.done: // closed while this was on its way
		l.passOn()
	default:
	}
	return true
}

// passOn offers whom a closed listener has not accepted to others.
func (l *UDPListener) passOn() {
	for {
		select {
		case c := <-l.conns:
			c.socket.offer(c)
		default:
			return
		}
	}
}
