package netio

import (
	"net"
	"os"
	"sync"
)

// BareSocket is another descriptor of a socket, which Go's poller does not watch. The
// poller would wake this process for each datagram that another process reads.
type BareSocket struct {
	mu sync.RWMutex // held for reading while fd is used
	fd int          // -1: closed
}

// NewBareSocket returns another descriptor of the socket fd.
func NewBareSocket(fd uintptr) (*BareSocket, error) {
	other, errno := duplicate(fd)
	if errno != 0 {
		return nil, os.NewSyscallError("fcntl", errno)
	}
	return &BareSocket{fd: other}, nil
}

// Control calls f with the descriptor, as that of syscall.RawConn does.
func (b *BareSocket) Control(f func(fd uintptr)) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(b.fd))
	return nil
}

// Close closes the descriptor, once no call of Control uses it. It may be called again.
func (b *BareSocket) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd >= 0 {
		CloseDescriptor(b.fd)
		b.fd = -1
	}
}
