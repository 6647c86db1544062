package handler

import "slices"

// Bounds of a session's backlog.
const (
	queueLength   = 64       // datagrams that wait for a socket
	queueBytes    = 1 << 20  // the sum of their sizes
	resendLength  = 16       // datagrams that are sent again to the next backend
	resendBytes   = 64 << 10 // the sum of their sizes
	retainedBytes = 4 << 10  // memory that an empty backlog keeps
)

// backlog holds copies of the client's datagrams that are not answered yet, in
// order: those that wait for a socket, and the last of those that were sent,
// which are sent again to the next backend if this one fails.
type backlog struct {
	datagrams [][]byte // elements beyond the length hold memory for further datagrams
	bytes     int      // the sum of the sizes of datagrams
}

// add appends a copy of a datagram. It returns false if there is no room.
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

// addSent appends copies of datagrams that have just been sent, and trims the
// backlog. The result is that of add and trim for each datagram, but a datagram
// that would be trimmed at once is not copied.
//
// Precondition: all datagrams of the backlog were sent.
func (b *backlog) addSent(sent [][]byte) {
	first, bytes := len(sent), 0
	for first > 0 && len(sent)-first < resendLength && (bytes == 0 || bytes+len(sent[first-1]) <= resendBytes) {
		first--
		bytes += len(sent[first])
	}
	if first > 0 {
		b.removeFirst(len(b.datagrams))
	}
	for _, datagram := range sent[first:] {
		b.add(datagram)
	}
	b.trim()
}

// trim removes the datagrams that are too old to be sent again.
//
// Precondition: all datagrams of the backlog were sent.
func (b *backlog) trim() {
	n := 0
	for bytes := b.bytes; len(b.datagrams)-n > resendLength || bytes > resendBytes && n < len(b.datagrams)-1; n++ {
		bytes -= len(b.datagrams[n])
	}
	b.removeFirst(n)
}

// removeFirst removes the first n datagrams. Their memory moves behind the
// others and is reused.
func (b *backlog) removeFirst(n int) {
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

// remove removes the i-th datagram. Its memory moves behind the others and is
// reused.
func (b *backlog) remove(i int) {
	removed := b.datagrams[i]
	b.bytes -= len(removed)
	copy(b.datagrams[i:], b.datagrams[i+1:])
	last := len(b.datagrams) - 1
	b.datagrams[last] = removed[:0]
	b.datagrams = b.datagrams[:last]
}

// clear removes all datagrams, and frees the memory if there is more of it than
// retainedBytes.
func (b *backlog) clear() {
	retained := 0
	for _, d := range b.datagrams[:cap(b.datagrams)] {
		retained += cap(d)
	}
	if retained > retainedBytes {
		b.datagrams = nil
	}
	b.datagrams, b.bytes = b.datagrams[:0], 0
}
