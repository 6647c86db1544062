package dgram

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// ICMPError is an ICMP error about a datagram that a socket has sent. It does not
// wrap its error number: the same number means something else, such as a route
// that this machine lacks, where a call of this machine returns it.
type ICMPError struct {
	Errno syscall.Errno
	// From is the host that sent the message. This machine's own kernel sends a
	// host unreachable if a neighbour does not answer.
	From        netip.Addr
	FromBackend bool // From is the address that the datagram was sent to
	Fragment    bool // only some fragments of the datagram arrived at From
}

// Error implements error.
func (e *ICMPError) Error() string {
	text := os.NewSyscallError("read", e.Errno).Error()
	if e.Fragment {
		text = "fragments of a datagram were lost"
	}
	if e.FromBackend {
		return text
	}
	return fmt.Sprintf("%s (ICMP from %s)", text, e.From)
}

// Is reports whether target is the error's number.
func (e *ICMPError) Is(target error) bool { return target == error(e.Errno) }

// icmpError returns the error of an entry in the error queue of a socket that is
// connected to peer. It returns nil for an error about a datagram to another
// peer, which the socket had before.
func icmpError(e netio.QueuedError, peer netip.AddrPort) *ICMPError {
	to := netip.AddrPortFrom(e.To.Addr().WithZone(""), e.To.Port())
	if to != netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port()) {
		return nil
	}
	return &ICMPError{Errno: e.Errno, From: e.From, FromBackend: e.From == to.Addr(), Fragment: e.Fragment}
}

// Evidence is what an error of [Sink.Failed] proves.
type Evidence uint8

const (
	// BackendFailed: the backend itself has refused a datagram, or the system
	// does not report who has.
	BackendFailed Evidence = iota
	// Unreachable: a router, or this machine for a neighbour that does not
	// answer, reports that the backend cannot be reached. Any host can send such
	// a message, so it counts only if the backend is silent too.
	Unreachable
	// DatagramLost: one datagram was larger than the path accepts, or some of its
	// fragments were lost.
	DatagramLost
	// Ignored: a host other than the backend claims what only the backend knows.
	Ignored
)

// Judge returns what an error of [Sink.Failed] proves.
func Judge(err error) Evidence {
	var icmp *ICMPError
	switch {
	case !errors.As(err, &icmp):
		if netio.TooBig(err) {
			return DatagramLost
		}
		return BackendFailed
	case netio.TooBig(icmp.Errno), icmp.Fragment:
		return DatagramLost
	case icmp.FromBackend:
		return BackendFailed
	}
	switch icmp.Errno {
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EACCES, syscall.EPERM:
		return Unreachable
	default: // port or protocol unreachable, parameter problem
		return Ignored
	}
}
