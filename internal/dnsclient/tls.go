package dnsclient

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

const (
	// maxIdle is the number of idle connections to a server that are kept.
	maxIdle = 4

	// idleTimeout is how long they are kept.
	idleTimeout = 30 * time.Second

	// handshakeTimeout is the time limit for a new connection.
	handshakeTimeout = 5 * time.Second
)

// tlsServer is a server of DNS over TLS (RFC 7858). A connection carries one query
// at a time and is used again after it.
type tlsServer struct {
	name string // for errors
	addr string // host:port
	tls  *tls.Config

	mu     sync.Mutex // guards the fields below
	idle   []idleConn // the one that was used last is the last
	closed bool
}

type idleConn struct {
	conn  *tls.Conn
	until time.Time
}

func newTLSServer(s Server) *tlsServer {
	return &tlsServer{
		name: s.String(), addr: s.Addr,
		tls: &tls.Config{ServerName: s.TLSName, RootCAs: s.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"dot"}, ClientSessionCache: tls.NewLRUClientSessionCache(maxIdle)},
	}
}

func (s *tlsServer) String() string { return s.name }

// exchange queries the server. If a connection that was idle fails, the query is
// sent again on a new one: the server may have closed it.
func (s *tlsServer) exchange(ctx context.Context, query []byte) (reply, error) {
	for {
		c, used, err := s.get(ctx)
		if err != nil {
			return reply{}, cause(ctx, err)
		}
		stop := context.AfterFunc(ctx, func() { _ = c.NetConn().Close() })
		msg, err := exchangeOn(c, query)
		if err == nil && stop() {
			s.put(c)
			return reply{msg: msg}, nil
		}
		stop()
		_ = c.NetConn().Close()
		if err == nil || !used || ctx.Err() != nil {
			return reply{msg: msg}, cause(ctx, err)
		}
	}
}

// get returns an idle connection, or else a new one.
func (s *tlsServer) get(ctx context.Context) (c *tls.Conn, used bool, err error) {
	s.mu.Lock()
	s.dropExpiredLocked(time.Now())
	if last := len(s.idle) - 1; last >= 0 {
		c = s.idle[last].conn
		s.idle = s.idle[:last]
	}
	s.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: handshakeTimeout}, Config: s.tls}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, false, err
	}
	return conn.(*tls.Conn), false, nil
}

// put makes a connection idle.
func (s *tlsServer) put(c *tls.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.idle) == maxIdle {
		_ = c.NetConn().Close()
		return
	}
	s.idle = append(s.idle, idleConn{c, time.Now().Add(idleTimeout)})
	time.AfterFunc(idleTimeout, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dropExpiredLocked(time.Now())
	})
}

// dropExpiredLocked closes the connections that were idle for idleTimeout.
func (s *tlsServer) dropExpiredLocked(now time.Time) {
	n := 0
	for n < len(s.idle) && !now.Before(s.idle[n].until) {
		_ = s.idle[n].conn.NetConn().Close()
		n++
	}
	s.idle = append(s.idle[:0], s.idle[n:]...)
}

func (s *tlsServer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, i := range s.idle {
		_ = i.conn.NetConn().Close()
	}
	s.idle = nil
}
