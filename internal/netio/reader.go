package netio

import (
	"io"
	"net"
	"syscall"
)

// Reader reads a connection into pooled buffers. With plain sockets on Unix it
// takes a buffer only once there is something to read, so that an idle connection
// holds none. It belongs to one goroutine.
type Reader struct {
	conn   net.Conn
	raw    syscall.RawConn // nil: conn is read through Read, with a buffer taken before
	stream bool            // reading 0 bytes means the end
	doubt  bool            // the next read that finds nothing is repeated
	buf    *Buffer

	ready func(fd uintptr) bool // readReady, bound once so that a read allocates nothing
	n     int                   // readReady's result, as is err
	err   error
	late  error // an error that came with bytes; the next call returns it
}

// NewReader returns a reader of conn. Plain sockets of package net are read by
// descriptor, and any other connection through its Read method.
func NewReader(conn net.Conn) *Reader {
	r := &Reader{conn: conn, stream: true, doubt: true}
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

// Next waits for the next bytes or datagram, which are valid until the next call.
// At the end of a stream the error is io.EOF. An empty datagram is an empty slice.
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

// Release returns the buffer to the pool. The reader stays usable.
func (r *Reader) Release() {
	if r.buf != nil {
		r.buf.Free()
		r.buf = nil
	}
}

// take takes a buffer if the reader has none.
func (r *Reader) take() {
	if r.buf == nil {
		r.buf = GetBuffer()
	}
}
