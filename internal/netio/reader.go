package netio

import (
	"io"
	"net"
	"syscall"
)

// Reader reads a connection into pooled buffers. Where the system allows it
// (Unix, plain sockets) a buffer is taken only once there is something to
// read, so that a connection at rest holds none. It belongs to one goroutine.
type Reader struct {
	conn   net.Conn
	raw    syscall.RawConn // nil: buffers are taken before the wait
	stream bool            // reading nothing means the end
	buf    *Buffer

	ready func(fd uintptr) bool // readReady, bound once so that a read allocates nothing
	n     int                   // readReady's outcome
	err   error
	late  error // came beside bytes, is given at the next call
}

// NewReader makes a reader of conn. Only plain sockets of package net are read
// by descriptor; anything that wraps one is read through its Read.
func NewReader(conn net.Conn) *Reader {
	r := &Reader{conn: conn, stream: true}
	switch c := conn.(type) {
	case *net.TCPConn:
		r.raw = rawConn(c)
	case *net.UnixConn:
		r.raw = rawConn(c)
	case *net.UDPConn:
		r.raw, r.stream = rawConn(c), false
	}
	r.ready = r.readReady
	return r
}

// Next waits for the next bytes or datagram. They are valid until the next
// call. The end of a stream is io.EOF; an empty datagram is an empty slice.
func (r *Reader) Next() ([]byte, error) {
	if r.late != nil {
		r.n, r.err, r.late = 0, r.late, nil
	} else if r.raw == nil {
		r.take()
		r.n, r.err = r.conn.Read(r.buf[:])
	} else if err := r.raw.Read(r.ready); err != nil {
		r.n, r.err = 0, err
	}
	if r.n > 0 || r.err == nil && !r.stream {
		r.late = r.err
		return r.buf[:r.n], nil
	}
	r.Release()
	if r.err == nil {
		return nil, io.EOF
	}
	return nil, r.err
}

// Release gives the buffer back. The reader can be used again.
func (r *Reader) Release() {
	if r.buf != nil {
		r.buf.Free()
		r.buf = nil
	}
}

func (r *Reader) take() {
	if r.buf == nil {
		r.buf = GetBuffer()
	}
}
