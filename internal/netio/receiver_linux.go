package netio

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlSpace is the room for the control messages of a datagram.
const controlSpace = 128

// Receiver reads datagrams of any size from UDP sockets, up to [Batch] in a
// system call. It belongs to one goroutine.
type Receiver struct {
	memory    []byte // BufferSize for each datagram; mapped, so that pages no datagram has reached cost nothing
	headers   [Batch]header
	vectors   [Batch]unix.Iovec
	senders   []sockaddr // nil: not requested
	controls  []byte     // control messages
	datagrams [Batch][]byte
	used      int  // how many headers the kernel has written into
	singly    bool // the kernel lacks recvmmsg(2)
}

// NewReceiver returns a receiver. With senders it also records the sender of
// each datagram.
func NewReceiver(senders bool) (*Receiver, error) {
	memory, err := unix.Mmap(-1, 0, Batch*BufferSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mapping memory for datagrams: %w", err)
	}
	_ = unix.Madvise(memory, unix.MADV_NOHUGEPAGE) // the first datagram would take 2 MiB
	r := &Receiver{memory: memory, controls: make([]byte, Batch*controlSpace), used: Batch, singly: Disabled("batch")}
	if senders {
		r.senders = make([]sockaddr, Batch)
	}
	for i := range r.headers {
		r.vectors[i].Base = &memory[i*BufferSize]
		r.vectors[i].SetLen(BufferSize)
		h := &r.headers[i].Msghdr
		h.Iov = &r.vectors[i]
		h.SetIovlen(1)
	}
	return r, nil
}

// Free unmaps the memory. What was received must not be used afterwards.
func (r *Receiver) Free() { _ = unix.Munmap(r.memory) }

// ReceiveNonblock reads the datagrams that a socket has received. It never blocks: the
// error is EAGAIN if there are none. The datagrams are valid until the next call.
func (r *Receiver) ReceiveNonblock(fd int) (datagrams [][]byte, err error) {
	r.prepare()
	n := 1
	if !r.singly {
		n, err = messagesNonblock(unix.SYS_RECVMMSG, fd, r.headers[:])
		r.singly = errors.Is(err, unix.ENOSYS)
	}
	if r.singly {
		n, err = 1, messageNonblock(unix.SYS_RECVMSG, fd, &r.headers[0])
	}
	return r.received(n, err)
}

// received returns the first n datagrams.
func (r *Receiver) received(n int, err error) ([][]byte, error) {
	if err != nil {
		return nil, err
	}
	r.used = n
	for i := range n {
		at := i * BufferSize
		r.datagrams[i] = r.memory[at : at+int(r.headers[i].length) : at+BufferSize]
	}
	return r.datagrams[:n], nil
}

// ReceiveMessageNonblock is ReceiveNonblock of one datagram, by recvmsg(2).
func (r *Receiver) ReceiveMessageNonblock(fd int) (datagrams [][]byte, err error) {
	r.prepare()
	return r.received(1, messageNonblock(unix.SYS_RECVMSG, fd, &r.headers[0]))
}

// ReceiveOneNonblock is ReceiveNonblock of one datagram of a connected socket,
// without its control messages, by recvfrom(2). It costs least.
func (r *Receiver) ReceiveOneNonblock(fd int) (datagrams [][]byte, err error) {
	n, errno := ReadNonblock(fd, r.memory[:BufferSize])
	if errno != 0 {
		return nil, errno
	}
	r.datagrams[0] = r.memory[:n:BufferSize]
	return r.datagrams[:1], nil
}

// ReceiveOneFromNonblock is ReceiveNonblock of one datagram with its sender, but
// without its control messages, by recvfrom(2). It costs less than a batch of one.
func (r *Receiver) ReceiveOneFromNonblock(fd int) (datagrams [][]byte, err error) {
	r.senders[0].length = unix.SizeofSockaddrInet6
	n, errno := readFromNonblock(fd, r.memory[:BufferSize], &r.senders[0])
	if errno != 0 {
		return nil, errno
	}
	r.headers[0].SetControllen(0)
	r.used = max(r.used, 1) // prepare restores the length of the control messages
	r.datagrams[0] = r.memory[:n:BufferSize]
	return r.datagrams[:1], nil
}

// prepare restores the headers that the kernel has overwritten.
func (r *Receiver) prepare() {
	for i := range r.used {
		h := &r.headers[i].Msghdr
		if r.senders != nil {
			h.Name = (*byte)(unsafe.Pointer(&r.senders[i].raw))
			h.Namelen = unix.SizeofSockaddrInet6
		}
		h.Control = &r.controls[i*controlSpace]
		h.SetControllen(controlSpace)
	}
	r.used = 0
}

// Control returns the control messages of the i-th datagram, valid as long as it.
func (r *Receiver) Control(i int) []byte {
	at := i * controlSpace
	return r.controls[at : at+min(int(r.headers[i].Controllen), controlSpace)]
}

// From returns the sender of the i-th datagram. A zone is the index of an
// interface: its name would cost a system call for each datagram.
func (r *Receiver) From(i int) netip.AddrPort { return r.senders[i].addrPort() }
