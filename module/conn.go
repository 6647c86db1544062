package module

import (
	"net"
	"slices"
	"strings"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// isDatagrams reports whether a connection is a UDP association.
func isDatagrams(cx *layer4.Connection) bool {
	return strings.HasPrefix(cx.LocalAddr().Network(), "udp")
}

// clientOf returns the client for a TCP connection: its plain socket if nothing
// wraps that, or the wrapped connection with the means to half-close and reset it.
func clientOf(cx *layer4.Connection) stream.Client {
	if client, ok := plainClient(cx.Conn); ok {
		// Matchers have read these bytes into a buffer that cx will reuse.
		client.Early = slices.Clone(cx.MatchingBytes())
		return client
	}
	return stream.Client{Conn: cx, CloseWriter: closeWriterOf(cx), Socket: socketOf(cx)}
}

// plainClient returns the client for a socket that nothing wraps. It reports false
// for any other connection.
func plainClient(conn net.Conn) (client stream.Client, ok bool) {
	switch c := conn.(type) {
	case *net.TCPConn:
		return stream.Client{Conn: c, CloseWriter: c, Socket: c, Detacher: duplicated{c}}, true
	case detachable:
		return stream.Client{Conn: c, CloseWriter: c, Socket: c, Detacher: c}, true
	}
	return stream.Client{}, false
}

// duplicated is a client whose listener closes its connection.
type duplicated struct{ conn *net.TCPConn }

// Detach implements [stream.Detacher].
func (d duplicated) Detach() (fd int, err error) { return netio.Duplicate(d.conn) }

// detachable is a client of relay+tcp/ on systems where [listen.TCPConn] gives up
// its descriptor.
type detachable interface {
	net.Conn
	stream.Detacher
	stream.CloseWriter
}

// unwrap returns the connection that conn wraps, or nil if conn does not reveal
// one. It knows layer4's wrappers and those with NetConn (crypto/tls) or Raw
// (go-proxyproto).
func unwrap(conn net.Conn) net.Conn {
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

// socketOf returns the plain socket under any number of wrappers, or nil if one
// of them hides it.
func socketOf(conn net.Conn) net.Conn {
	for conn != nil {
		switch conn.(type) {
		case *net.TCPConn, *net.UnixConn, detachable:
			return conn
		}
		conn = unwrap(conn)
	}
	return nil
}

// closeWriterOf returns the outermost layer that has a CloseWrite method, or nil. That
// layer knows how to half-close: TLS sends close_notify first. Layers above it do not
// alter what is written, so they can be skipped.
func closeWriterOf(conn net.Conn) stream.CloseWriter {
	for conn != nil {
		if half, ok := conn.(stream.CloseWriter); ok {
			return half
		}
		conn = unwrap(conn)
	}
	return nil
}
