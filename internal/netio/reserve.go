package netio

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// The last descriptor numbers that the process may have are reserved: those before
// the end for UDP sessions, so that TCP clients leave them some, and those at the
// end for all that is not a relay, such as the admin API, reloads, lookups, files
// and other apps of Caddy.
//
//	0          firstForUDP       firstForOthers       limit
//	|  all     |  UDP sessions   |  no relays         |
//
// The system gives each new descriptor the lowest free number. A relay that gets a
// number reserved from it has therefore found no other one, and must close the
// descriptor. So each reserve stays free for its users, and nothing has to be
// counted.

// Bounds of each of the two reserves, which has one in sixteen of the process's
// descriptors, and at most one in eight.
const (
	minReserve = 8
	maxReserve = 1024
)

// reserves returns the lowest number that is reserved from TCP relays, and the
// lowest one that is reserved from UDP sessions too.
func reserves(limit int) (firstForUDP, firstForOthers int) {
	if limit == 0 {
		return math.MaxInt, math.MaxInt
	}
	size := min(max(limit/16, minReserve), maxReserve, limit/8)
	return limit - 2*size, limit - size
}

// reserved returns the reserves of this process. The limit counts from the first
// call on.
var reserved = sync.OnceValues(func() (firstForUDP, firstForOthers int) { return reserves(descriptorLimit()) })

// Reserved reports whether a descriptor is reserved from TCP relays. It must be
// called for each descriptor that a TCP relay gets.
func Reserved(fd int) bool {
	first, _ := reserved()
	if now := fd >= first-max(first/16, minReserve); scarce.Load() != now {
		scarce.Store(now)
	}
	return fd >= first
}

// scarce is the result of [Scarce].
var scarce atomic.Bool

// Scarce reports whether TCP relays have few descriptors left: the latest number
// that one of them got is in the last sixteenth before the reserve, or is one of the
// last eight.
func Scarce() bool { return scarce.Load() }

// ReservedFromUDP reports whether a descriptor is reserved from UDP sessions, too.
func ReservedFromUDP(fd int) bool {
	_, first := reserved()
	return fd >= first
}

// reservedError is the error of a relay that found only reserved descriptors. Its
// class is [Exhausted].
type reservedError struct{ udp bool }

var (
	// ErrReserved is the error of a TCP relay that found only reserved descriptors.
	ErrReserved error = reservedError{}
	// errReservedFromUDP is that of a UDP session.
	errReservedFromUDP error = reservedError{udp: true}
)

// Error implements error.
func (e reservedError) Error() string {
	forUDP, forOthers := reserved()
	if e.udp {
		return fmt.Sprintf("%s: numbers from %d on are reserved for the admin API", syscall.EMFILE, forOthers)
	}
	return fmt.Sprintf("%s: numbers from %d on are reserved for UDP sessions and the admin API", syscall.EMFILE, forUDP)
}

// Unwrap returns EMFILE.
func (reservedError) Unwrap() error { return syscall.EMFILE }

// InReserve reports whether the descriptor of a TCP socket is reserved from TCP
// relays.
func InReserve(socket syscall.Conn) (in bool) {
	if first, _ := reserved(); first == math.MaxInt {
		return false
	}
	withDescriptor(socket, func(fd int) { in = Reserved(fd) })
	return in
}

// AvoidReserve is a Control function of package net's dialers. The dial fails if
// the socket's descriptor is reserved from a relay of that network.
func AvoidReserve(network, _ string, raw syscall.RawConn) (err error) {
	_ = raw.Control(func(fd uintptr) {
		switch udp := strings.HasPrefix(network, "udp"); {
		case udp && ReservedFromUDP(int(fd)):
			err = errReservedFromUDP
		case !udp && Reserved(int(fd)):
			err = ErrReserved
		}
	})
	return err
}

// LeaveReserve returns conn, or a connection with another descriptor if that of
// conn is in the reserve. ok is false, and conn unchanged, if there are too few
// other descriptors: it needs two for a moment.
func LeaveReserve(conn *net.TCPConn) (out *net.TCPConn, ok bool) {
	if !InReserve(conn) {
		return conn, true
	}
	file, err := conn.File() // a duplicate
	if err != nil {
		return conn, false
	}
	defer file.Close()
	other, err := fileConn(file) // another duplicate
	if err != nil {
		return conn, false
	}
	if out, ok = other.(*net.TCPConn); !ok || InReserve(out) {
		_ = other.Close()
		return conn, false
	}
	_ = conn.Close()
	return out, true
}

// connOf returns the socket of file as a connection of package net, and closes
// file. The new descriptor is not in the reserve.
func connOf(file *os.File) (net.Conn, error) {
	defer file.Close()
	conn, err := fileConn(file) // a duplicate
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !InReserve(tcp) {
		return conn, nil
	}
	// The number of file was the last one outside the reserve. Move the socket into
	// the reserve, close file, and move the socket to that number.
	moved, err := tcp.File()
	_ = tcp.Close()
	if err != nil {
		return nil, err
	}
	defer moved.Close()
	_ = file.Close()
	if conn, err = fileConn(moved); err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok && InReserve(tcp) {
		_ = conn.Close()
		return nil, ErrReserved
	}
	return conn, nil
}

// ConnOf returns the socket of a descriptor as a connection of package net, and
// takes over the descriptor. The connection's own one is not in the reserve.
func ConnOf(fd int) (net.Conn, error) { return connOf(os.NewFile(uintptr(fd), "socket")) }

// OutOfDescriptors reports whether err means that a relay found no free descriptor.
func OutOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
