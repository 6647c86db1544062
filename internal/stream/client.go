package stream

import (
	"net"
	"syscall"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Client is a TCP client that is handed to a relay, which closes it.
type Client struct {
	// Conn is what the client's bytes are read from and answers are written to.
	Conn net.Conn
	// Early is what was read from Conn before, such as by a matcher. It goes to
	// the backend first.
	Early []byte
	// HeaderLen is how many of the first bytes of Early were not sent by the
	// client (a PROXY protocol header). They are not counted.
	HeaderLen int
	// Finished: the client has sent a FIN, and the backend was sent one. Early is
	// empty then.
	Finished bool
	// CloseWriter sends the end of the stream, a FIN, while Conn can still be
	// read. It is nil where Conn cannot be half-closed; then the end of the
	// backend's stream ends the relay.
	CloseWriter CloseWriter
	// Socket is the plain socket that Conn uses, which is Conn itself where
	// nothing wraps it. It is the one that is reset. It is nil where it cannot be
	// reached; then a reset becomes a close of Conn.
	Socket net.Conn
	// Detacher gives up the client's socket. It is nil where Conn is not a plain
	// socket.
	Detacher Detacher
}

// CloseWriter can end the stream that it sends. It is an interface and not a function, as is
// [Detacher], because a method value would be an allocation for each client.
type CloseWriter interface {
	// CloseWrite sends the end of the stream.
	CloseWrite() error
}

// Detacher can give up its descriptor.
type Detacher interface {
	// Detach returns a nonblocking descriptor of the socket, which the caller
	// closes. Only the addresses of the connection can be used afterwards.
	Detach() (fd int, err error)
}

// SetKeepAlive sets the idle time and interval of TCP keep-alive probes to the
// client, or switches them off if it is 0. It does nothing where the client's
// socket cannot be reached.
func (c Client) SetKeepAlive(interval time.Duration) {
	if socket, ok := c.Socket.(interface {
		SetKeepAliveConfig(config net.KeepAliveConfig) error
	}); ok {
		_ = socket.SetKeepAliveConfig(netio.KeepAlive(interval))
	}
}

// InReserve reports whether the client's socket has a descriptor of the reserve,
// see [netio.Reserved].
func (c Client) InReserve() bool {
	socket, ok := c.Socket.(syscall.Conn)
	return ok && netio.InReserve(socket)
}

// Reset closes the client so that it sees a RST, if it has a plain socket. It
// does nothing to a client whose socket was detached.
func (c Client) Reset() {
	if c.Detacher != nil {
		if fd, err := c.Detacher.Detach(); err == nil {
			netio.ResetDescriptor(fd)
			_ = c.Conn.Close() // ends a Read that waits on a descriptor of Conn's own
			return
		}
	}
	if c.Socket != nil {
		netio.Reset(c.Socket)
	}
	_ = c.Conn.Close()
}

// ResetAfterPanic is Reset for a client whose Conn may be what has panicked.
func (c Client) ResetAfterPanic() {
	defer func() { _ = recover() }()
	c.Reset()
}
