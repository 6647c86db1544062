package module

import (
	"net"
	"slices"
	"strings"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// isDatagrams tells a UDP association from a stream.
func isDatagrams(cx *layer4.Connection) bool {
	return strings.HasPrefix(cx.LocalAddr().Network(), "udp")
}

// clientOf finds the plain socket in a TCP connection, if nothing lies over
// it, and how to end and reset what does lie over it.
func clientOf(cx *layer4.Connection) stream.Client {
	if client, ok := plainClient(cx.Conn); ok {
		// What matchers have read lies in cx, in a buffer that is not ours to keep.
		client.Early = slices.Clone(cx.MatchingBytes())
		return client
	}
	return stream.Client{Conn: cx, CloseWrite: closeWriteOf(cx), Socket: socketOf(cx)}
}

// plainClient is a client with nothing over its socket.
func plainClient(conn net.Conn) (client stream.Client, ok bool) {
	switch c := conn.(type) {
	case *net.TCPConn:
		return stream.Client{
			Conn: c, CloseWrite: c.CloseWrite, Socket: c,
			Detach: func() (int, error) { return netio.Duplicate(c) }, // whoever accepted it closes its own
		}, true
	case detachable:
		return stream.Client{Conn: c, CloseWrite: c.CloseWrite, Socket: c, Detach: c.Detach}, true
	}
	return stream.Client{}, false
}

// detachable is a client of relay+tcp/ where that is light ([listen.TCPConn]).
type detachable interface {
	net.Conn
	Detach() (fd int, err error)
	CloseWrite() error
}

// beneath is what conn is wrapped around, as far as wrappers tell: layer4's
// own, crypto/tls (NetConn), go-proxyproto (Raw).
func beneath(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case *layer4.Connection:
		return c.Conn
	case interface{ NetConn() net.Conn }:
		return c.NetConn()
	case interface{ Raw() net.Conn }:
		return c.Raw()
	default:
		return nil
	}
}

// socketOf is the plain socket beneath any number of wrappers; nil if one of
// them hides it.
func socketOf(conn net.Conn) net.Conn {
	for conn != nil {
		switch conn.(type) {
		case *net.TCPConn, *net.UnixConn, detachable:
			return conn
		}
		conn = beneath(conn)
	}
	return nil
}

// closeWriteOf is how the client is told that no more bytes come: by the
// outermost layer that can, as it is the one that knows how (TLS says
// close_notify first). Layers that cannot but show what they cover add nothing
// to what is written.
func closeWriteOf(conn net.Conn) func() error {
	for conn != nil {
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			return half.CloseWrite
		}
		conn = beneath(conn)
	}
	return nil
}
