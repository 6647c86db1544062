package netio

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Path is whom a socket sends to, and the control messages that say how. Of a
// connected socket it is nil.
type Path struct {
	name    unix.RawSockaddrInet6 // an IPv4 one fills its beginning
	length  uint32
	control []byte
}

// NewPath is the way to an address from a socket of IPv4, or of IPv6 where IPv4
// addresses go by their mapped form. A zone is the number of a link.
func NewPath(to netip.AddrPort, ipv4 bool, control []byte) Path {
	p := Path{control: control}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&p.name.Port))[:], to.Port())
	if ipv4 {
		p.name.Family, p.length = unix.AF_INET, unix.SizeofSockaddrInet4
		(*unix.RawSockaddrInet4)(unsafe.Pointer(&p.name)).Addr = to.Addr().As4()
		return p
	}
	p.name.Family, p.length = unix.AF_INET6, unix.SizeofSockaddrInet6
	p.name.Addr = to.Addr().As16()
	if link, err := strconv.ParseUint(to.Addr().Zone(), 10, 32); err == nil {
		p.name.Scope_id = uint32(link)
	}
	return p
}

// Sending is how a socket sends datagrams, and what it was found not to do.
// Any number of goroutines may use it at once.
type Sending struct {
	// whole is the least size of datagrams that are not sent as segments of
	// one: such have been refused, because the path takes none as large or
	// the device none at all.
	whole  atomic.Int32
	singly atomic.Bool // no sendmmsg here
}

const (
	// maxSegmented is how many bytes are sent as one, headers left out.
	maxSegmented = 65_000
	// sizeOfSegments is the control message that has a datagram cut.
	sizeOfSegments = 2
)

// Abilities are what a kernel and RELAY_DISABLE let sockets do.
type Abilities struct {
	Batch    bool // many datagrams in a system call
	Segments bool // many sent as one that the system cuts
	Force    bool // socket buffers beyond the system's limits
}

// AbilitiesOf asks a UDP socket, whose buffers it may leave larger; what it says
// holds for all.
func AbilitiesOf(fd int) Abilities {
	return Abilities{
		Batch:    !Disabled("batch"),
		Segments: !Disabled("gso") && hasSegments(fd),
		Force:    force(fd, ConnectedBuffer),
	}
}

// GrowBuffers is [GrowBuffers] for sockets of which there are many.
func (can Abilities) GrowBuffers(fd, size int) {
	if !can.Force || !force(fd, size) {
		ask(fd, size)
	}
}

// hasSegments says whether the kernel knows UDP_SEGMENT of udp(7): before
// Linux 4.18 it would take such datagrams for a single large one.
func hasSegments(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	return err == nil
}

// Init is called before the first Send.
func (s *Sending) Init(can Abilities) {
	s.singly.Store(!can.Batch)
	s.whole.Store(1)
	if can.Segments {
		s.whole.Store(maxSegmented)
	}
}

// outgoing is what a system call sends: it must not move meanwhile.
type outgoing struct {
	headers [Batch]header
	vectors [Batch]unix.Iovec
	control [2 * controlSpace]byte
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// Send sends datagrams in order, without waiting. It says how many went out;
// the error is that of the one after them.
func (s *Sending) Send(fd int, path *Path, datagrams [][]byte) (sent int, err error) {
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

// sendOne is the shortest way out, where nothing but the address says how.
func sendOne(fd int, path *Path, datagram []byte) error {
	at := unsafe.Pointer(unsafe.SliceData(datagram))
	var name unsafe.Pointer
	var length uintptr
	if path != nil {
		name, length = unsafe.Pointer(&path.name), uintptr(path.length)
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

// sendSome sends the first of the datagrams: as segments of one where they
// allow it, else side by side up to the next that do.
func (s *Sending) sendSome(out *outgoing, fd int, path *Path, datagrams [][]byte) (int, error) {
	whole := int(s.whole.Load())
	n := segments(datagrams, whole)
	if n == 1 {
		return s.sendBeside(out, fd, path, datagrams, whole)
	}
	err := out.sendSegments(fd, path, datagrams[:n])
	if err == nil {
		return n, nil
	}
	size := len(datagrams[0])
	switch {
	case errors.Is(err, unix.EIO):
		whole = 1 // the device does it for none
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE):
		whole = size // the path is narrower
	default:
		return 0, err
	}
	sent, err := s.sendBeside(out, fd, path, datagrams, whole)
	if sent > 0 { // so it was the segments that were refused, and not the datagrams
		s.refused(whole)
	}
	return sent, err
}

// sendBeside sends datagrams up to the next that can be segments.
func (s *Sending) sendBeside(out *outgoing, fd int, path *Path, datagrams [][]byte, whole int) (int, error) {
	n := 1
	for n < min(len(datagrams), Batch) && segments(datagrams[n:], whole) == 1 {
		n++
	}
	if n > 1 && !s.singly.Load() {
		sent, err := out.sendMessages(fd, path, datagrams[:n])
		if !errors.Is(err, unix.ENOSYS) {
			return sent, err
		}
		s.singly.Store(true)
	}
	if err := out.sendMessage(fd, path, datagrams[0]); err != nil {
		return 0, err
	}
	return 1, nil
}

// refused keeps that datagrams of this size are not taken as segments.
func (s *Sending) refused(size int) {
	for {
		whole := s.whole.Load()
		if int(whole) <= size || s.whole.CompareAndSwap(whole, int32(size)) {
			return
		}
	}
}

// segments is how many of the first datagrams can be sent as one: all of one
// size, which the last may fall short of. Datagrams of whole bytes and more
// are sent alone, as are empty ones, which no segment can be.
func segments(datagrams [][]byte, whole int) int {
	size := len(datagrams[0])
	if size == 0 || size >= whole {
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

// free gives the memory back, and lets go of what the first headers sent.
func (out *outgoing) free(used int) {
	clear(out.vectors[:used])
	for i := range used {
		out.headers[i].Name, out.headers[i].Control = nil, nil
	}
	outgoings.Put(out)
}

// address fills in a header, all but what it sends.
func (out *outgoing) address(h *header, path *Path) {
	h.Msghdr = unix.Msghdr{}
	if path == nil {
		return
	}
	h.Name = (*byte)(unsafe.Pointer(&path.name))
	h.Namelen = path.length
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
	cut := (*unix.Cmsghdr)(unsafe.Pointer(&out.control[used]))
	cut.Level, cut.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	cut.SetLen(unix.CmsgLen(sizeOfSegments))
	*(*uint16)(unsafe.Pointer(&out.control[used+unix.CmsgLen(0)])) = uint16(len(datagrams[0]))
	h.Control = &out.control[0]
	h.SetControllen(used + unix.CmsgSpace(sizeOfSegments))
	return message(unix.SYS_SENDMSG, fd, h)
}

func (out *outgoing) sendMessages(fd int, path *Path, datagrams [][]byte) (int, error) {
	for i, datagram := range datagrams {
		out.message(i, path, datagram)
	}
	return messages(unix.SYS_SENDMMSG, fd, out.headers[:len(datagrams)])
}

func (out *outgoing) sendMessage(fd int, path *Path, datagram []byte) error {
	out.message(0, path, datagram)
	return message(unix.SYS_SENDMSG, fd, &out.headers[0])
}

func (out *outgoing) message(i int, path *Path, datagram []byte) {
	h := &out.headers[i]
	out.address(h, path)
	out.vector(i, datagram)
	h.Iov = &out.vectors[i]
	h.SetIovlen(1)
}
