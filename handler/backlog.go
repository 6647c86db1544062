package handler

import "slices"

// Bounds of a session's backlog.
const (
	queueLength = 64      // datagrams that wait for a socket
	queueBytes  = 1 << 20 // and their bytes
	againLength = 16      // datagrams that are sent again to the next backend
	againBytes  = 64 << 10
	keepBytes   = 4 << 10 // memory that an empty backlog holds on to
)

// backlog holds copies of the client's datagrams that have no answer yet, in
// order: those that wait for a socket, and the last of those sent, for the
// next backend if this one fails.
type backlog struct {
	datagrams [][]byte // those beyond its length are memory for the next ones
	bytes     int
}

// add appends a copy; false if there is no room.
func (b *backlog) add(datagram []byte) bool {
	n := len(b.datagrams)
	if n >= queueLength || n > 0 && b.bytes+len(datagram) > queueBytes {
		return false
	}
	if n < cap(b.datagrams) {
		b.datagrams = b.datagrams[:n+1]
	} else {
		b.datagrams = append(b.datagrams, nil)
	}
	b.datagrams[n] = append(b.datagrams[n][:0], datagram...)
	b.bytes += len(datagram)
	return true
}

// keep appends copies of datagrams that have just been sent behind all others,
// and forgets what is too old to be sent again, as add and trim would. What
// would be forgotten at once is not copied.
func (b *backlog) keep(sent [][]byte) {
	first, bytes := len(sent), 0
	for first > 0 && len(sent)-first < againLength && (bytes == 0 || bytes+len(sent[first-1]) <= againBytes) {
		first--
		bytes += len(sent[first])
	}
	if first > 0 {
		b.drop(len(b.datagrams))
	}
	for _, datagram := range sent[first:] {
		b.add(datagram)
	}
	b.trim()
}

// trim forgets, once all are sent, those too old to be sent again.
func (b *backlog) trim() {
	n := 0
	for bytes := b.bytes; len(b.datagrams)-n > againLength || bytes > againBytes && n < len(b.datagrams)-1; n++ {
		bytes -= len(b.datagrams[n])
	}
	b.drop(n)
}

// drop forgets the first n datagrams. Their memory goes behind the others and
// serves the next ones.
func (b *backlog) drop(n int) {
	for _, datagram := range b.datagrams[:n] {
		b.bytes -= len(datagram)
	}
	left := len(b.datagrams) - n
	if n > 0 && left > 0 {
		slices.Reverse(b.datagrams[:n])
		slices.Reverse(b.datagrams[n:])
		slices.Reverse(b.datagrams)
	}
	b.datagrams = b.datagrams[:left]
}

// remove forgets the i-th datagram.
func (b *backlog) remove(i int) {
	gone := b.datagrams[i]
	b.bytes -= len(gone)
	copy(b.datagrams[i:], b.datagrams[i+1:])
	last := len(b.datagrams) - 1
	b.datagrams[last] = gone[:0] // its memory serves the next one
	b.datagrams = b.datagrams[:last]
}

// clear forgets all, and gives back the memory of a burst.
func (b *backlog) clear() {
	held := 0
	for _, d := range b.datagrams[:cap(b.datagrams)] {
		held += cap(d)
	}
	if held > keepBytes {
		b.datagrams = nil
	}
	b.datagrams, b.bytes = b.datagrams[:0], 0
}
