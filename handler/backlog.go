package handler

import (
	"slices"
	"time"
)

// Bounds of a session's backlog. [Backlogs] bounds the memory of all sessions.
const (
	queueLength   = 64       // datagrams that wait for a socket
	queueBytes    = 1 << 20  // the sum of their sizes
	resendLength  = 16       // datagrams that are sent again to the next backend
	resendBytes   = 64 << 10 // the sum of their sizes
	retainedBytes = 4 << 10  // memory that an empty backlog keeps
)

// slotBytes is the memory of an element of backlog.datagrams and of
// backlog.arrived.
const slotBytes = 24 + 8

// backlog holds copies of the client's datagrams that are not answered yet, in
// order: those that wait for a socket, and the last of those that were sent,
// which are sent again to the next backend if this one fails.
type backlog struct {
	datagrams [][]byte        // elements beyond the length are spare memory for further datagrams
	arrived   []time.Duration // when each of them arrived, after Backlogs.epoch
	bytes     int             // the sum of the sizes of datagrams
	held      int             // the memory of the backlog: capacities, including spare memory
}

// oneSlot is the first memory of a backlog, in one allocation. Most sessions need
// no more.
type oneSlot struct {
	datagrams [1][]byte
	arrived   [1]time.Duration
}

// add appends a copy of a datagram. It returns false if there is no room.
func (b *backlog) add(datagram []byte, at time.Duration) bool {
	n := len(b.datagrams)
	if n >= queueLength || n > 0 && b.bytes+len(datagram) > queueBytes {
		return false
	}
	if n == cap(b.datagrams) {
		b.grow()
	}
	b.datagrams, b.arrived = b.datagrams[:n+1], b.arrived[:n+1]
	spare := b.datagrams[n]
	b.held -= cap(spare)
	if cap(spare) > max(retainedBytes, 2*len(datagram)) {
		spare = nil // a small datagram must not hold the memory of a large one
	}
	b.datagrams[n] = append(spare[:0], datagram...)
	b.arrived[n] = at
	b.held += cap(b.datagrams[n])
	b.bytes += len(datagram)
	return true
}

// grow makes room for more elements.
//
// Precondition: there is no spare memory.
func (b *backlog) grow() {
	n := len(b.datagrams)
	if n == 0 {
		first := new(oneSlot)
		b.datagrams, b.arrived = first.datagrams[:0], first.arrived[:0]
		b.held += slotBytes
		return
	}
	b.datagrams = append(make([][]byte, 0, 2*n), b.datagrams...)
	b.arrived = append(make([]time.Duration, 0, 2*n), b.arrived...)
	b.held += n * slotBytes
}

// addSent appends copies of datagrams that have just been sent, and trims the
// backlog. The result is that of add and trim for each datagram, but a datagram
// that would be trimmed at once is not copied.
//
// Precondition: all datagrams of the backlog were sent.
func (b *backlog) addSent(sent [][]byte, at time.Duration) {
	first, bytes := len(sent), 0
	for first > 0 && len(sent)-first < resendLength && (bytes == 0 || bytes+len(sent[first-1]) <= resendBytes) {
		first--
		bytes += len(sent[first])
	}
	if first > 0 {
		b.removeFirst(len(b.datagrams))
	}
	for _, datagram := range sent[first:] {
		b.add(datagram, at)
	}
	b.trim()
}

// trim removes the datagrams that are too old to be sent again, and frees the
// spare memory that the next ones are unlikely to need.
//
// Precondition: all datagrams of the backlog were sent.
func (b *backlog) trim() {
	n := 0
	for bytes := b.bytes; len(b.datagrams)-n > resendLength || bytes > resendBytes && n < len(b.datagrams)-1; n++ {
		bytes -= len(b.datagrams[n])
	}
	b.removeFirst(n)
	b.freeSpare(2 * resendBytes)
}

// removeFirst removes the first n datagrams. Their memory moves behind the
// others and becomes spare.
func (b *backlog) removeFirst(n int) {
	for _, datagram := range b.datagrams[:n] {
		b.bytes -= len(datagram)
	}
	left := len(b.datagrams) - n
	if n > 0 && left > 0 {
		slices.Reverse(b.datagrams[:n])
		slices.Reverse(b.datagrams[n:])
		slices.Reverse(b.datagrams)
		copy(b.arrived, b.arrived[n:])
	}
	b.datagrams, b.arrived = b.datagrams[:left], b.arrived[:left]
}

// remove removes the i-th datagram. Its memory moves behind the others and
// becomes spare.
func (b *backlog) remove(i int) {
	removed := b.datagrams[i]
	b.bytes -= len(removed)
	copy(b.datagrams[i:], b.datagrams[i+1:])
	copy(b.arrived[i:], b.arrived[i+1:])
	last := len(b.datagrams) - 1
	b.datagrams[last] = removed[:0]
	b.datagrams, b.arrived = b.datagrams[:last], b.arrived[:last]
}

// freeSpare frees spare memory while the backlog holds more than keep bytes.
func (b *backlog) freeSpare(keep int) {
	for i := cap(b.datagrams) - 1; i >= len(b.datagrams) && b.held > keep; i-- {
		spare := &b.datagrams[:i+1][i]
		b.held -= cap(*spare)
		*spare = nil
	}
	if len(b.datagrams) == 0 && b.held > keep {
		*b = backlog{}
	}
}

// clear removes all datagrams, and frees the memory if there is more of it than
// keep bytes.
func (b *backlog) clear(keep int) {
	if b.held > keep {
		*b = backlog{}
		return
	}
	b.datagrams, b.arrived, b.bytes = b.datagrams[:0], b.arrived[:0], 0
}
