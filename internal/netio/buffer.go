package netio

import "sync"

// BufferSize is the size of a pooled buffer: what a stream is read in, and
// enough for the largest UDP datagram (65,507 bytes).
const BufferSize = 64 << 10

// Buffer is a pooled piece of memory. Whoever got it frees it, once.
type Buffer [BufferSize]byte

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// GetBuffer takes a buffer from the pool.
func GetBuffer() *Buffer { return buffers.Get().(*Buffer) }

// Free gives the buffer back; nobody may use it afterwards.
func (b *Buffer) Free() { buffers.Put(b) }
