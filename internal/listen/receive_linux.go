package listen

import (
	"errors"
	"net"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// read delivers datagrams to their clients until the socket is closed or, with the
// result true, suspended. It waits
// in the runtime's poller and receives all queued datagrams of a batch at once.
func (u *udpSocket) read() (suspended bool) {
	backoff := u.backoff()
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return false // already closed
	}
	var b *batch // nil before the first datagram
	defer func() {
		if b != nil {
			b.receiver.Free()
		}
	}()
	receive := func(fd uintptr) bool {
		if b == nil {
			b, err = newBatch(int(fd))
		}
		if b != nil {
			b.datagrams, err = b.receiver.ReceiveNonblock(int(fd))
		}
		return !errors.Is(err, syscall.EAGAIN)
	}
	for {
		waitErr := raw.Read(receive)
		switch {
		case errors.Is(waitErr, net.ErrClosed):
			return false
		case waitErr != nil && u.gate.suspended.Load():
			return true
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

// newBatch returns a batch once a datagram is waiting. The error is EAGAIN until
// then. A process may have thousands of sockets that nothing is sent to, and a
// batch takes 20 KB.
func newBatch(fd int) (*batch, error) {
	if err := netio.PeekNonblock(fd); err != nil {
		return nil, err
	}
	receiver, err := netio.NewReceiver(true)
	if err != nil {
		return nil, err
	}
	return &batch{receiver: receiver}, nil
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
	u.takenInBatch = 0
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
