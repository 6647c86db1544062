package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlSpace is room for the control messages that come with a datagram.
const controlSpace = 128

// Receiver takes what has come in on UDP sockets, up to [Batch] datagrams in a
// system call, each of any size. It belongs to one goroutine.
type Receiver struct {
	memory    []byte // a Buffer's worth for each, mapped: the system backs what datagrams have reached
	headers   [Batch]header
	vectors   [Batch]unix.Iovec
	senders   []unix.RawSockaddrInet6 // nil: not asked for
	controls  []byte                  // the same
	datagrams [Batch][]byte
	used      int  // headers that the kernel has written into
	singly    bool // no recvmmsg here
}

// NewReceiver makes a receiver. With senders it also tells who sent what, and
// the control messages that came with it.
func NewReceiver(senders bool) (*Receiver, error) {
	memory, err := unix.Mmap(-1, 0, Batch*BufferSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mapping memory for datagrams: %w", err)
	}
	_ = unix.Madvise(memory, unix.MADV_NOHUGEPAGE) // or a first datagram would take 2 MiB
	r := &Receiver{memory: memory, used: Batch, singly: Disabled("batch")}
	if senders {
		r.senders = make([]unix.RawSockaddrInet6, Batch)
		r.controls = make([]byte, Batch*controlSpace)
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

// Free gives the memory back; nobody may use what was received afterwards.
func (r *Receiver) Free() { _ = unix.Munmap(r.memory) }

// Receive takes what has come in on a socket, without waiting. The error is
// EAGAIN if that is nothing. The datagrams are valid until the next call.
func (r *Receiver) Receive(fd int) (datagrams [][]byte, err error) {
	r.prepare()
	n := 1
	if !r.singly {
		n, err = messages(unix.SYS_RECVMMSG, fd, r.headers[:])
		r.singly = errors.Is(err, unix.ENOSYS)
	}
	if r.singly {
		n, err = 1, message(unix.SYS_RECVMSG, fd, &r.headers[0])
	}
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

// ReceiveOne is Receive of a connected socket that mostly has one datagram, which
// costs less that way.
func (r *Receiver) ReceiveOne(fd int) (datagrams [][]byte, err error) {
	n, errno := ReadNow(fd, r.memory[:BufferSize])
	if errno != 0 {
		return nil, errno
	}
	r.datagrams[0] = r.memory[:n:BufferSize]
	return r.datagrams[:1], nil
}

// prepare undoes what the kernel wrote into the headers.
func (r *Receiver) prepare() {
	if r.senders == nil {
		return
	}
	for i := range r.used {
		h := &r.headers[i].Msghdr
		h.Name = (*byte)(unsafe.Pointer(&r.senders[i]))
		h.Namelen = unix.SizeofSockaddrInet6
		h.Control = &r.controls[i*controlSpace]
		h.SetControllen(controlSpace)
	}
	r.used = 0
}

// Control is the control messages of the i-th datagram, valid as long as it.
func (r *Receiver) Control(i int) []byte {
	at := i * controlSpace
	return r.controls[at : at+min(int(r.headers[i].Controllen), controlSpace)]
}

// From is who sent the i-th datagram. Links are numbered: their names would be
// a question to the kernel each time.
func (r *Receiver) From(i int) netip.AddrPort {
	name := &r.senders[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	if name.Family == unix.AF_INET {
		name4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(name4.Addr), port)
	}
	addr := netip.AddrFrom16(name.Addr).Unmap()
	if name.Scope_id != 0 && addr.Is6() {
		addr = addr.WithZone(strconv.Itoa(int(name.Scope_id)))
	}
	return netip.AddrPortFrom(addr, port)
}
