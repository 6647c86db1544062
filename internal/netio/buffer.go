package netio

import "sync"

// BufferSize is the size of a pooled buffer. The largest UDP datagram (65,507
// bytes) fits.
const BufferSize = 64 << 10

// Buffer is pooled memory. Each call of GetBuffer needs one call of Free.
type Buffer [BufferSize]byte

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// GetBuffer returns a buffer from the pool.
func GetBuffer() *Buffer { return buffers.Get().(*Buffer) }

// Free returns the buffer to the pool. It must not be used afterwards.
func (b *Buffer) Free() { buffers.Put(b) }
