package netio

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Path is the destination of datagrams and the control messages that are sent
// with them, such as the local address. A connected socket uses a nil *Path. It
// must not be copied once it was used.
type Path struct {
	to      sockaddr
	control []byte
	refused int32 // as Sender.refused; atomic
}

// NewPath returns the path to an address from a socket of IPv4, or of IPv6,
// where IPv4 addresses are written in their mapped form. A zone must be the index
// of an interface. control is sent with each datagram and is not copied.
func NewPath(to netip.AddrPort, ipv4 bool, control []byte) Path {
	return Path{to: newSockaddr(to, ipv4), control: control}
}

// Sender sends datagrams on one socket and remembers which batching features the
// kernel lacks and the peers' paths have refused. Any number of goroutines may
// use it at once.
type Sender struct {
	segments bool        // GSO (generic segmentation offload) is available; set by Init
	noBatch  atomic.Bool // the kernel lacks sendmmsg(2)
	stopped  atomic.Bool // see Stopped

	// refused is the smallest size of segments that the path or its device has
	// refused for GSO; 1 means any size, 0 that none was refused. It is that of a
	// connected socket's path. Other paths have a value of their own, so that a
	// narrow path to one client does not affect the others.
	refused int32 // atomic
}

const (
	// maxSegmented is the most payload of one GSO send: the kernel's limit is
	// 65,535 bytes with headers.
	maxSegmented = 65_000
	// segmentSizeLen is the length of the UDP_SEGMENT control message's data, a uint16.
	segmentSizeLen = 2
)

// Features are the batching features of a kernel that RELAY_DISABLE does not
// switch off.
type Features struct {
	Batch        bool // sendmmsg(2): many datagrams in a system call
	Segments     bool // UDP_SEGMENT of udp(7): one send that the system splits
	ForceBuffers bool // socket buffers above net.core.rmem_max and wmem_max
}

// ProbeFeatures determines the features by trying them on a UDP socket, whose
// buffers may be larger afterwards. They hold for all sockets of the process.
func ProbeFeatures(fd int) Features {
	return Features{
		Batch:        !Disabled("batch"),
		Segments:     !Disabled("gso") && hasSegments(fd),
		ForceBuffers: forceBuffers(fd, ConnectedBuffer),
	}
}

// GrowBuffers is the function [GrowBuffers] without the query of the result.
func (f Features) GrowBuffers(fd, size int) {
	if !f.ForceBuffers || !forceBuffers(fd, size) {
		requestBuffers(fd, size)
	}
}

// hasSegments reports whether the kernel has UDP_SEGMENT (Linux 4.18). Older
// kernels ignore the control message and would send one large datagram.
func hasSegments(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	return err == nil
}

// Init must be called before the first SendNonblock.
func (s *Sender) Init(f Features) {
	s.segments = f.Segments
	s.noBatch.Store(!f.Batch)
	s.stopped.Store(false)
	atomic.StoreInt32(&s.refused, 0)
}

// Stopped reports whether a sendmmsg(2) has sent less than it was called with. The
// kernel does not return the error that stopped it, which may be an ICMP error
// about an earlier datagram.
func (s *Sender) Stopped() bool { return s.stopped.Load() }

// refusedBy returns the place of a path's refused size.
func (s *Sender) refusedBy(path *Path) *int32 {
	if path == nil {
		return &s.refused
	}
	return &path.refused
}

// unsegmented returns the smallest size of datagrams that are not sent by GSO.
func (s *Sender) unsegmented(refused *int32) int {
	if !s.segments {
		return 1
	}
	if size := atomic.LoadInt32(refused); size > 0 {
		return int(size)
	}
	return maxSegmented
}

// outgoing holds what the kernel reads during a send. It is pooled because it
// must be on the heap.
type outgoing struct {
	headers [Batch]header
	vectors [Batch]unix.Iovec
	control [2 * controlSpace]byte
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// SendNonblock sends datagrams in order. It never blocks. It returns how many were sent;
// the error is that of the next one, and EAGAIN means that the socket's buffer
// is full.
func (s *Sender) SendNonblock(fd int, path *Path, datagrams [][]byte) (sent int, err error) {
	if len(datagrams) == 1 && (path == nil || path.control == nil) {
		if err := sendOne(fd, path, datagrams[0]); err != nil {
			return 0, err
		}
		return 1, nil
	}
	out := outgoings.Get().(*outgoing)
	defer out.free(min(len(datagrams), Batch))
	for err == nil && sent < len(datagrams) {
		var n int
		n, err = s.sendSome(out, fd, path, datagrams[sent:])
		sent += n
	}
	return sent, err
}

// sendOne sends one datagram without control messages, by sendto(2).
func sendOne(fd int, path *Path, datagram []byte) error {
	at := unsafe.Pointer(unsafe.SliceData(datagram))
	var name unsafe.Pointer
	var length uintptr
	if path != nil {
		name, length = unsafe.Pointer(&path.to.raw), uintptr(path.to.length)
	}
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(at), uintptr(len(datagram)), unix.MSG_DONTWAIT, uintptr(name), length)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// sendSome sends the first of the datagrams with one system call: by GSO those
// that form segments, else by sendmmsg those up to the next that do.
func (s *Sender) sendSome(out *outgoing, fd int, path *Path, datagrams [][]byte) (int, error) {
	refused := s.refusedBy(path)
	unsegmented := s.unsegmented(refused)
	n := segments(datagrams, unsegmented)
	if n == 1 {
		return s.sendBatch(out, fd, path, datagrams, unsegmented)
	}
	err := out.sendSegments(fd, path, datagrams[:n])
	if err == nil {
		return n, nil
	}
	size := len(datagrams[0])
	switch {
	case errors.Is(err, unix.EIO):
		unsegmented = 1 // the device computes no checksums, so it supports no GSO
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE):
		unsegmented = size // a segment exceeds the path's MTU
	default:
		return 0, err
	}
	sent, err := s.sendBatch(out, fd, path, datagrams, unsegmented)
	if sent > 0 { // the datagrams are accepted without GSO, so GSO was the reason
		limitSegments(refused, unsegmented)
	}
	return sent, err
}

// sendBatch sends the datagrams before the next ones that form segments.
func (s *Sender) sendBatch(out *outgoing, fd int, path *Path, datagrams [][]byte, unsegmented int) (int, error) {
	n := 1
	for n < min(len(datagrams), Batch) && segments(datagrams[n:], unsegmented) == 1 {
		n++
	}
	if n > 1 && !s.noBatch.Load() {
		sent, err := out.sendMessages(fd, path, datagrams[:n])
		if !errors.Is(err, unix.ENOSYS) {
			if err == nil && sent < n {
				s.stopped.Store(true)
			}
			return sent, err
		}
		s.noBatch.Store(true)
	}
	if err := out.sendMessage(fd, path, datagrams[0]); err != nil {
		return 0, err
	}
	return 1, nil
}

// limitSegments remembers that segments of this size are refused.
func limitSegments(refused *int32, size int) {
	for {
		old := atomic.LoadInt32(refused)
		if old > 0 && int(old) <= size || atomic.CompareAndSwapInt32(refused, old, int32(size)) {
			return
		}
	}
}

// segments returns how many of the first datagrams one GSO send can carry: all
// have one size, and only the last may be shorter. Datagrams of unsegmented
// bytes or more are sent alone, as are empty ones.
func segments(datagrams [][]byte, unsegmented int) int {
	size := len(datagrams[0])
	if size == 0 || size >= unsegmented {
		return 1
	}
	n, total := 1, size
	for n < min(len(datagrams), Batch) {
		next := len(datagrams[n])
		total += next
		if next == 0 || next > size || total > maxSegmented {
			break
		}
		n++
		if next < size {
			break
		}
	}
	return n
}

// free returns the memory to the pool without references to what was sent.
func (out *outgoing) free(used int) {
	clear(out.vectors[:used])
	for i := range used {
		out.headers[i].Name, out.headers[i].Control = nil, nil
	}
	outgoings.Put(out)
}

// address sets the destination and the control messages of a header.
func (out *outgoing) address(h *header, path *Path) {
	h.Msghdr = unix.Msghdr{}
	if path == nil {
		return
	}
	h.Name = (*byte)(unsafe.Pointer(&path.to.raw))
	h.Namelen = path.to.length
	if len(path.control) > 0 {
		h.Control = &path.control[0]
		h.SetControllen(len(path.control))
	}
}

func (out *outgoing) vector(i int, datagram []byte) {
	out.vectors[i].Base = unsafe.SliceData(datagram)
	out.vectors[i].SetLen(len(datagram))
}

func (out *outgoing) sendSegments(fd int, path *Path, datagrams [][]byte) error {
	h := &out.headers[0]
	out.address(h, path)
	for i, datagram := range datagrams {
		out.vector(i, datagram)
	}
	h.Iov = &out.vectors[0]
	h.SetIovlen(len(datagrams))
	used := 0
	if path != nil {
		used = copy(out.control[:controlSpace], path.control)
	}
	segment := (*unix.Cmsghdr)(unsafe.Pointer(&out.control[used]))
	segment.Level, segment.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	segment.SetLen(unix.CmsgLen(segmentSizeLen))
	*(*uint16)(unsafe.Pointer(&out.control[used+unix.CmsgLen(0)])) = uint16(len(datagrams[0]))
	h.Control = &out.control[0]
	h.SetControllen(used + unix.CmsgSpace(segmentSizeLen))
	return messageNonblock(unix.SYS_SENDMSG, fd, h)
}

func (out *outgoing) sendMessages(fd int, path *Path, datagrams [][]byte) (int, error) {
	for i, datagram := range datagrams {
		out.message(i, path, datagram)
	}
	return messagesNonblock(unix.SYS_SENDMMSG, fd, out.headers[:len(datagrams)])
}

func (out *outgoing) sendMessage(fd int, path *Path, datagram []byte) error {
	out.message(0, path, datagram)
	return messageNonblock(unix.SYS_SENDMSG, fd, &out.headers[0])
}

func (out *outgoing) message(i int, path *Path, datagram []byte) {
	h := &out.headers[i]
	out.address(h, path)
	out.vector(i, datagram)
	h.Iov = &out.vectors[i]
	h.SetIovlen(1)
}
