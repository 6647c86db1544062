package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// tcpSocket is one listening kernel socket.
type tcpSocket struct {
	sockets *Sockets
	at      netip.AddrPort
	ln      acceptor

	users     int // listeners not closed; guarded by Sockets.mu
	listeners listeners[*TCPListener]
	closed    chan struct{}
	accepting sync.WaitGroup
	helpers   atomic.Int32 // goroutines that accept beside the socket's own
}

// TCPListener is one config's share of a TCP socket.
type TCPListener struct {
	socket *tcpSocket
	opts   Options
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func (l *TCPListener) options() Options { return l.opts }

// TCP opens a listener at that address.
func (s *Sockets) TCP(at netip.AddrPort, opts Options) (*TCPListener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	socket := s.tcp[at]
	opened := socket == nil
	if opened {
		bound, err := bind("tcp", at, listenTCP)
		if err != nil {
			return nil, err
		}
		ln, err := newAcceptor(bound.(*net.TCPListener))
		if err != nil {
			_ = bound.(*net.TCPListener).Close()
			return nil, err
		}
		socket = &tcpSocket{sockets: s, at: at, ln: ln, closed: make(chan struct{})}
	}
	l := &TCPListener{socket: socket, opts: opts, conns: make(chan net.Conn), done: make(chan struct{})}
	if err := socket.listeners.add(l, at.String()); err != nil {
		return nil, err
	}
	socket.users++
	if opened {
		s.tcp[at] = socket
		socket.accepting.Go(socket.accept) // ends when the socket is closed
	}
	return l, nil
}

// Accept implements net.Listener.
func (l *TCPListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, fmt.Errorf("accept on %s: %w", l.socket.at, net.ErrClosed)
	}
}

// Addr implements net.Listener.
func (l *TCPListener) Addr() net.Addr { return l.socket.ln.Addr() }

// Close ends this config's share, and the socket if it was the last one.
func (l *TCPListener) Close() error {
	l.once.Do(func() {
		s := l.socket.sockets
		s.mu.Lock()
		defer s.mu.Unlock()
		l.socket.listeners.remove(l)
		close(l.done)
		l.socket.users--
		if l.socket.users == 0 {
			delete(s.tcp, l.socket.at)
			close(l.socket.closed)
			_ = l.socket.ln.Close()
			l.socket.accepting.Wait() // it never takes the lock that is held here
		}
	})
	return nil
}

// accept takes clients and hands them to the latest listener until the socket
// is closed. What it cannot take now, for want of descriptors or memory, waits
// in the kernel's queue.
func (t *tcpSocket) accept() {
	trouble := trouble{
		at: t.at, log: t.listeners.log, closed: t.closed,
		failed: "cannot accept clients, trying on", again: "accepting clients again",
	}
	for crowd := 0; ; {
		conn, waited, err := t.ln.accept()
		if crowd++; waited {
			crowd = 0
		}
		switch {
		case err == nil:
			trouble.over()
			if crowd >= crowded {
				crowd = 0
				t.getHelp()
			}
			t.hand(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			trouble.wait(err)
		}
	}
}

// crowded is how many clients in a row have been waiting already when one more
// processor is to help: a client that is taken costs as much as it does to
// connect to a backend.
const crowded = 8

// getHelp has another goroutine accept clients as long as some are waiting, if
// there is a processor for it, and clients are taken as they are accepted.
func (t *tcpSocket) getHelp() {
	if l, ok := t.listeners.latest(); !ok || l.opts.TakeTCP == nil {
		return
	}
	if t.helpers.Add(1) >= int32(runtime.GOMAXPROCS(0)) {
		t.helpers.Add(-1)
		return
	}
	t.accepting.Go(func() { // ends when nobody waits any more
		defer t.helpers.Add(-1)
		accept := t.ln.beside()
		for conn := accept(); conn != nil; conn = accept() {
			t.hand(conn)
		}
	})
}

func (t *tcpSocket) hand(conn net.Conn) {
	for {
		l, ok := t.listeners.latest()
		if !ok {
			netio.Reset(conn)
			return
		}
		if take := l.opts.TakeTCP; take != nil {
			take(conn)
			return
		}
		select {
		case l.conns <- conn:
			return
		case <-l.done: // closed meanwhile: to the one that is latest now
		}
	}
}
