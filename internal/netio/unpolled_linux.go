package netio

import (
	"net"
	"os"
	"sync"
)

// Unpolled is a socket that Go's poller does not watch. Any number of goroutines may
// use it.
type Unpolled struct {
	mu sync.RWMutex // guards fd; read-locked during system calls, so that Close waits for them
	fd int          // -1: closed
}

// NewUnpolled returns another descriptor of the socket fd. Go's poller would wake this
// process for each datagram that another process reads from the socket.
func NewUnpolled(fd uintptr) (*Unpolled, error) {
	other, errno := duplicate(fd)
	if errno != 0 {
		return nil, os.NewSyscallError("fcntl", errno)
	}
	return &Unpolled{fd: other}, nil
}

// DetachUDP returns the socket of conn, and closes conn.
func DetachUDP(conn *net.UDPConn) (*Unpolled, error) {
	fd, err := duplicateOf(conn)
	if err != nil {
		return nil, err
	}
	_ = conn.Close()
	return &Unpolled{fd: fd}, nil
}

// Control calls f with the descriptor, as [syscall.RawConn] does. f must not close the
// socket. The error is net.ErrClosed once the socket is closed.
func (u *Unpolled) Control(f func(fd uintptr)) error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(u.fd))
	return nil
}

// Close closes the socket. It waits for calls of Control that are running.
func (u *Unpolled) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fd < 0 {
		return net.ErrClosed
	}
	CloseDescriptor(u.fd)
	u.fd = -1
	return nil
}
