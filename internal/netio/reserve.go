package netio

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sync"
	"syscall"
)

// The last descriptor numbers that the process may have are reserved for all that
// is not a relay: the admin API, reloads, lookups, files and other apps of Caddy.
//
// The system gives each new descriptor the lowest free number. A relay that gets a
// reserved number has therefore found no other one, and must close the descriptor.
// So the reserve stays free, and nothing has to be counted.

// Bounds of the reserve: one in sixteen of the process's descriptors.
const (
	minReserve = 8
	maxReserve = 1024
)

// reserveOf returns the size of the reserve.
func reserveOf(limit int) int { return min(max(limit/16, minReserve), maxReserve) }

// firstReserved returns the lowest reserved number. The limit counts from the
// first call on.
var firstReserved = sync.OnceValue(func() int {
	limit := descriptorLimit()
	if limit == 0 {
		return math.MaxInt
	}
	return limit - reserveOf(limit)
})

// Reserved reports whether a descriptor is in the reserve.
func Reserved(fd int) bool { return fd >= firstReserved() }

// reservedError is the error of a relay that found only reserved descriptors.
type reservedError struct{}

// Error implements error.
func (reservedError) Error() string {
	return fmt.Sprintf("%s: descriptors from number %d on are reserved for the admin API", syscall.EMFILE, firstReserved())
}

// Unwrap returns EMFILE, so that the class of the error is [Exhausted].
func (reservedError) Unwrap() error { return syscall.EMFILE }

// ErrReserved is the error of a relay that found only reserved descriptors.
var ErrReserved error = reservedError{}

// InReserve reports whether the descriptor of a socket is in the reserve.
func InReserve(socket syscall.Conn) (reserved bool) {
	if firstReserved() == math.MaxInt {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { reserved = Reserved(int(fd)) })
	return reserved
}

// AvoidReserve is a Control function of package net's dialers. The dial fails if
// the socket's descriptor is in the reserve.
func AvoidReserve(_, _ string, raw syscall.RawConn) (err error) {
	_ = raw.Control(func(fd uintptr) {
		if Reserved(int(fd)) {
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
	other, err := net.FileConn(file) // another duplicate
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
	conn, err := net.FileConn(file) // a duplicate
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
	if conn, err = net.FileConn(moved); err != nil {
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
