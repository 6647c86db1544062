package netio

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// delayAck makes the kernel delay the next acknowledgement until there are bytes to send with
// it, for at most 200 ms (TCP_QUICKACK of tcp(7)).
func delayAck(fd int) { SetOption(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) }

// SetQuickAck ends the delay of acknowledgements, and sends one that is delayed. It does
// nothing after [FinishWriting].
func SetQuickAck(fd int) { SetOption(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }

// ConnectTCPNonblock starts a connection. If done is true it is established
// already, as connections within this machine are. Otherwise the descriptor
// becomes writable when it is established or has failed, see [SocketError].
// The socket does not block. It delays a small segment while another one is not
// acknowledged, until the caller calls [SetNoDelay].
//
// The acknowledgement of the handshake is delayed, so that it can be sent with the first
// bytes, as by tcp-smart-connect of haproxy. The caller must call [SetQuickAck] when it has
// written what it has, which sends the acknowledgement if it was not sent yet: the peer may
// speak first, or be behind a SYN proxy, which accepts no bytes before it.
func ConnectTCPNonblock(addr netip.AddrPort) (fd int, done bool, err error) {
	peer, err := peerSockaddr(addr)
	if err != nil {
		return -1, false, err
	}
	r, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(peer.raw.Family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, false, os.NewSyscallError("socket", errno)
	}
	fd = int(r)
	if Reserved(fd) {
		CloseDescriptor(fd)
		return -1, false, os.NewSyscallError("socket", ErrReserved)
	}
	delayAck(fd)
	for calls := range 2 { // the second call returns the result of the first
		err = peer.connectNonblock(fd)
		switch err {
		case nil, unix.EISCONN:
			if connectedToItself(fd, &peer) {
				err = unix.ECONNREFUSED
				break
			}
			return fd, true, nil
		case unix.EINPROGRESS, unix.EALREADY:
			continue
		}
		CloseDescriptor(fd)
		err = os.NewSyscallError("connect", err)
		if calls > 0 {
			err = Received(err)
		}
		return -1, false, err
	}
	return fd, false, nil
}

// connectedToItself reports whether a socket has connected to itself (TCP
// simultaneous open, RFC 9293 3.5): the kernel may choose the very port that is
// dialled as the source port, if it is an ephemeral port of this machine on
// which no process listens.
func connectedToItself(fd int, peer *sockaddr) bool {
	own, err := localSockaddr(fd)
	return err == nil && own.addrPort() == peer.addrPort()
}

// AwaitConnect waits until a connection that [ConnectTCPNonblock] started is
// established or has failed, or ctx ends, and returns it as a connection of
// package net. It takes over fd. The error of a ctx that ended is its cause. The
// class of the error is [Exhausted] if Go's poller cannot watch the socket.
func AwaitConnect(ctx context.Context, fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close() // connOf below returns another descriptor
	if err := CheckPolled(file); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var errno syscall.Errno
	err = raw.Write(func(fd uintptr) (done bool) {
		if !poll(int(fd), unix.POLLOUT) {
			return false
		}
		errno = SocketError(int(fd))
		return true
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	case errno != 0:
		return nil, Received(os.NewSyscallError("connect", errno))
	}
	return connOf(file)
}

// ReadNonblock reads what a socket has received. On a stream n is 0 at its end;
// on a datagram socket it reads one datagram, which may be empty. The error is
// EAGAIN if there is nothing to read.
func ReadNonblock(fd int, buf []byte) (n int, errno syscall.Errno) {
	return readFromNonblock(fd, buf, nil)
}

// readFromNonblock is ReadNonblock that also stores the sender of a datagram, unless
// from is nil.
func readFromNonblock(fd int, buf []byte, from *sockaddr) (n int, errno syscall.Errno) {
	var name, length unsafe.Pointer
	if from != nil {
		name, length = unsafe.Pointer(&from.raw), unsafe.Pointer(&from.length)
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), unix.MSG_DONTWAIT, uintptr(name), uintptr(length))
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// WriteNonblock writes as much as a stream socket has room for. The error is
// EAGAIN if it has none.
func WriteNonblock(fd int, bytes []byte) (n int, errno syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(bytes))), uintptr(len(bytes)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// SpliceNonblock moves up to size bytes from a socket to a pipe, or from a pipe
// to a socket, see splice(2). The error is EAGAIN if nothing can be moved now.
// From a socket, n is 0 at the end of the stream, and before urgent data.
func SpliceNonblock(from, to, size int) (n int, errno syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(size), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// RoomFD returns how many bytes a stream socket has room for; bytes of a pipe that
// are spliced to it need no more than their number. low reports whether poll(2) would
// find no room: less than a third of the send buffer is free. It never blocks. The
// error is that of a kernel without SO_MEMINFO.
func RoomFD(fd int) (room int, low bool, errno syscall.Errno) {
	const sndbuf, queued = 3, 5 // SK_MEMINFO_SNDBUF and SK_MEMINFO_WMEM_QUEUED of linux/sock_diag.h
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno = unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	room = int(info[sndbuf]) - int(info[queued])
	return room, room <= 0 || room < int(info[queued])/2, errno
}

// FinishWriting sends a FIN after the bytes that were written. It never blocks.
func FinishWriting(fd int) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return errno
}

// SocketError returns the pending error of a socket and clears it; 0 if there
// is none.
func SocketError(fd int) syscall.Errno {
	pending, errno := Option(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if errno != 0 {
		return errno
	}
	return syscall.Errno(pending)
}

// ioctlInt calls an ioctl that writes an int and never blocks.
func ioctlInt(fd int, request uintptr) (int, error) {
	var value int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&value)))
	if errno != 0 {
		return 0, errno
	}
	return int(value), nil
}

// Pipe is a pipe that does not block, for [SpliceNonblock].
type Pipe struct{ Read, Write int } // descriptors

// NewPipe opens a pipe. It holds size bytes, or less where the kernel's limits
// for users without privileges are reached, see pipe(7).
func NewPipe(size int) (Pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return Pipe{}, os.NewSyscallError("pipe2", err)
	}
	p := Pipe{Read: fds[0], Write: fds[1]}
	if Reserved(p.Read) || Reserved(p.Write) {
		p.Close()
		return Pipe{}, os.NewSyscallError("pipe2", ErrReserved)
	}
	_, _ = unix.FcntlInt(uintptr(p.Read), unix.F_SETPIPE_SZ, size)
	return p, nil
}

// ReadNonblock reads what the pipe holds. The error is EAGAIN if it is empty.
func (p Pipe) ReadNonblock(buf []byte) (n int, errno syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(p.Read), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Close closes both ends. What the pipe holds is lost.
func (p Pipe) Close() {
	CloseDescriptor(p.Read)
	CloseDescriptor(p.Write)
}
