package listen

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// read delivers datagrams to their clients until the socket is closed or suspended. It
// waits in the runtime's poller and receives all queued datagrams of a batch at once.
func (u *udpSocket) read() {
	backoff := u.backoff()
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return // already closed
	}
	var b *batch // nil while the goroutine waits
	receive := func(fd uintptr) bool {
		if b == nil {
			if b, err = u.sockets.batches.take(); err != nil {
				return true
			}
		}
		b.datagrams, err = b.receiver.ReceiveNonblock(int(fd))
		if errors.Is(err, syscall.EAGAIN) {
			u.sockets.batches.put(b)
			b = nil
			return false
		}
		return true
	}
	for {
		waitErr := raw.Read(receive)
		switch {
		case errors.Is(waitErr, net.ErrClosed), errors.Is(waitErr, os.ErrDeadlineExceeded):
			if b != nil {
				u.sockets.batches.put(b)
			}
			return
		case waitErr != nil:
			err = waitErr
		}
		if err != nil {
			backoff.failure(err)
			continue
		}
		backoff.success()
		b.deliver(u)
	}
}

// batch holds the datagrams that were received by one system call.
type batch struct {
	receiver  *netio.Receiver
	datagrams [][]byte
	keys      [netio.Batch]key
	grouped   [netio.Batch]bool // delivered with an earlier datagram
	group     [][]byte          // the datagrams of one client
}

// batches are the batches that no socket uses. A batch takes 20 KB, and up to 4 MiB
// once it has received large datagrams, and a process may have thousands of sockets.
// So a socket has one only while datagrams are waiting.
type batches struct {
	mu   sync.Mutex // guards free
	free []*batch   // the last one used is the last
}

// take returns a batch. The caller passes it to put.
func (l *batches) take() (*batch, error) {
	l.mu.Lock()
	if last := len(l.free) - 1; last >= 0 {
		b := l.free[last]
		l.free = l.free[:last]
		l.mu.Unlock()
		return b, nil
	}
	l.mu.Unlock()
	receiver, err := netio.NewReceiver(true)
	if err != nil {
		return nil, err
	}
	return &batch{receiver: receiver}, nil
}

// put keeps a batch for the next call of take, or frees it if there are enough: one
// for each processor.
func (l *batches) put(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.free) < runtime.GOMAXPROCS(0) {
		l.free = append(l.free, b)
		return
	}
	b.receiver.Free()
}

// deliver delivers the datagrams client by client, and those of each in order.
func (b *batch) deliver(u *udpSocket) {
	for i := range b.datagrams {
		b.keys[i] = key{client: b.receiver.From(i)}
		if u.packetInfo {
			b.keys[i].local = netio.PacketInfoLocal(b.receiver.Control(i))
		}
	}
	u.delivering.Lock()
	defer u.delivering.Unlock()
	u.beginBatch(len(b.datagrams) == netio.Batch)
	clear(b.grouped[:])
	for i := range b.datagrams {
		if b.grouped[i] {
			continue
		}
		b.group = append(b.group[:0], b.datagrams[i])
		for j := i + 1; j < len(b.datagrams); j++ {
			if b.keys[j] == b.keys[i] {
				b.group = append(b.group, b.datagrams[j])
				b.grouped[j] = true
			}
		}
		u.deliver(b.keys[i], b.group...)
	}
}

// pathTo returns the path to a client from the address that it sent to.
func (u *udpSocket) pathTo(k key) path {
	var control []byte
	if k.local.IsValid() {
		control = netio.PacketInfoFrom(u.sender.ipv4, k.local)
	}
	return netio.NewPath(k.client, u.sender.ipv4, control)
}

type path = netio.Path
