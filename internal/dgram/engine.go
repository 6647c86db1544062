package dgram

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Engine opens the sockets of UDP sessions. Any number of goroutines may use it.
type Engine interface {
	// Open returns a socket connected to addr. What the socket receives is passed
	// to sink, in order, until the socket is closed. The sink is never called
	// from within Open, Send or Close, because the caller may hold the lock that
	// the sink's methods take.
	Open(addr netip.AddrPort, sink Sink) (Socket, error)
	// CloseSpares closes the sockets that are kept for later sessions, so that
	// their descriptors are free. It reports whether there were any.
	CloseSpares() bool
}

// Socket is a connected UDP socket. Its methods must not be called concurrently.
type Socket interface {
	// Send sends datagrams in order and returns how many were sent. It does not
	// wait for space in the socket's buffer, and keeps no slice. The error
	// belongs to the first datagram that was not sent. Where the system has no
	// queue of ICMP errors it may belong to an earlier one: see [SocketFailed].
	Send(datagrams [][]byte) (sent int, err error)
	// LocalAddr returns the address that the backend sees. It may make a system
	// call. It is zero if the socket is closed.
	LocalAddr() netip.AddrPort
	// Close closes the socket. A call of the sink that has begun may still be
	// running, and one more may follow.
	Close()
}

// Sink handles what a [Socket] receives. Its methods may wait for a session's
// lock and must not block otherwise.
type Sink interface {
	// Datagrams handles datagrams from the backend, in order. They are valid
	// until it returns.
	Datagrams(datagrams [][]byte)
	// Failed handles an error of the socket, mostly an [ICMPError]. [Judge] returns
	// what it means. The socket stays usable.
	Failed(err error)
}

// DatagramRejected reports whether an error of [Socket.Send] concerns only that
// datagram: it is too large for the path, or there was no memory or buffer space
// for it. The next datagram may be sent.
func DatagramRejected(err error) bool {
	return netio.TooBig(err) || netio.Classify(err) == netio.Exhausted
}

// SocketFailed reports whether an error of [Socket.Send] concerns the socket and
// not the datagram: the socket is closed, or the error is an ICMP error about an
// earlier datagram.
func SocketFailed(err error) bool {
	return errors.Is(err, net.ErrClosed) || refused(err)
}

// unsentError is the error of a datagram that was not sent, because ICMP errors
// about earlier datagrams made the system return those errors instead. It does not
// wrap them: they prove nothing about the backend.
type unsentError struct{ err error }

// Error implements error.
func (e *unsentError) Error() string {
	return fmt.Sprintf("not sent because of ICMP errors about earlier datagrams: %v", e.err)
}

// Unsent reports whether an error of [Socket.Send] means that the datagram was not
// sent because of ICMP errors about earlier ones. [Sink.Failed] gets those errors,
// and tells whether the backend has failed.
func Unsent(err error) bool { return errors.As(err, new(*unsentError)) }

// Refused reports whether an error of [Sink.Failed] or [Socket.Send], or one of the
// errors that it joins, is a report that the backend's port is closed.
func Refused(err error) bool { return refused(err) }

func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// maxFailures is how many errors in a row a socket may report. Then it is
// treated as closed, so that a permanent error does not cause a busy loop.
const maxFailures = 1000
