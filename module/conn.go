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
	return stream.Client{Conn: cx, CloseWrite: closeWriteOf(cx), Socket: socketOf(cx)}
}

// plainClient returns the client for a socket that nothing wraps. It reports false
// for any other connection.
func plainClient(conn net.Conn) (client stream.Client, ok bool) {
	switch c := conn.(type) {
	case *net.TCPConn:
		return stream.Client{
			Conn: c, CloseWrite: c.CloseWrite, Socket: c,
			Detach: func() (int, error) { return netio.Duplicate(c) }, // a duplicate, because the listener closes the original
		}, true
	case detachable:
		return stream.Client{Conn: c, CloseWrite: c.CloseWrite, Socket: c, Detach: c.Detach}, true
	}
	return stream.Client{}, false
}

// detachable is a client of relay+tcp/ on systems where [listen.TCPConn] gives up
// its descriptor.
type detachable interface {
	net.Conn
	Detach() (fd int, err error)
	CloseWrite() error
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

// closeWriteOf returns the CloseWrite method of the outermost layer that has one,
// or nil. That layer knows how to half-close: TLS sends close_notify first.
// Layers above it do not alter what is written, so they can be skipped.
func closeWriteOf(conn net.Conn) func() error {
	for conn != nil {
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			return half.CloseWrite
		}
		conn = unwrap(conn)
	}
	return nil
}
