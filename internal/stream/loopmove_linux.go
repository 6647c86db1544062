package stream

import (
	"os"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// transfer is what a relay on a loop keeps for one direction, in addition to its
// state in ends. At rest it has neither a buffer nor a pipe.
//
// Invariant: it holds bytes only while its flow is blocked, ending or failing. A
// flow that is spliced is blocked without bytes: they stay in the source's socket
// until the sink has room.
type transfer struct {
	counter

	held     []byte        // bytes that the sink had no room for
	heldIn   *netio.Buffer // the pooled buffer that they are in; nil: another one
	noSplice bool          // splice(2) does not work on these sockets
	bulk     uint8         // how many reads in a row were large, at most largeReads
	small    uint8         // how many were small, at most smallReads
	spliced  uint16        // bytes spliced since the source had nothing to read, at most largeRead
}

// A direction is copied until largeReads reads in a row have filled at least
// largeRead of the loop's buffer. Then it is spliced until it runs dry.
const (
	largeRead  = 32 << 10
	largeReads = 2
	// smallReads in a row show that a direction carries small messages. Bulk data
	// that arrives in pieces leads to fewer.
	smallReads = 4
	// maxCalls is how many reads and writes one direction makes before other relays
	// of the loop have their turn.
	maxCalls = 8
)

// maxPiece returns how many bytes are spliced at once at most.
//
// The kernel makes a receive buffer as large as what is read in one round trip time. A
// client that stops reading mostly does so early, and the backend then fills that buffer:
// with large pieces from the start, 27 MB for each such client instead of 12 MB. 40 of them
// took so much of the kernel's TCP memory that it no longer enlarged the buffers of others.
func (t *transfer) maxPiece() int {
	if t.sum < youngFlow {
		return youngPiece
	}
	return maxPiece
}

// moveLocked moves what can be moved in both directions in one turn.
func (m *loopMover) moveLocked(w *workspace) {
	for _, source := range []Side{ClientSide, BackendSide} {
		m.moveOneLocked(source, w)
		if m.ends.over {
			return
		}
	}
}

// canMoveLocked reports whether a direction may have something to move.
func (m *loopMover) canMoveLocked(source Side) bool {
	flow := m.ends.flows[source]
	return flow.reads() && m.sockets[source].readable || flow.holds() && m.sockets[source.other()].writable
}

func (m *loopMover) moveOneLocked(source Side, w *workspace) {
	from := &m.sockets[source]
	limit, moved := w.bytesPerTurn(), 0
	for calls := 0; calls < maxCalls && moved < limit && !m.ends.over; calls++ {
		flow := m.ends.flows[source]
		switch {
		case flow.holds():
			if !m.sockets[source.other()].writable {
				return
			}
			m.flushLocked(source)
		case !flow.reads() || !from.readable:
			return
		case flow == flowing && m.splicesLocked(source, w):
			moved += m.spliceLocked(source, w.pipe, min(limit-moved, m.flows[source].maxPiece()))
		default:
			moved += m.copyLocked(source, w)
		}
	}
}

// splicesLocked reports whether a direction is spliced: it has become bulk, and
// there is a pipe.
func (m *loopMover) splicesLocked(source Side, w *workspace) bool {
	t := &m.flows[source]
	if t.noSplice || m.sockets[source].urgent {
		t.bulk = 0
	}
	return t.bulk == largeReads && w.pipe.open()
}

// copyLocked reads once, and writes what was read. It returns how much that was.
func (m *loopMover) copyLocked(source Side, w *workspace) (n int) {
	t, from, buf := &m.flows[source], &m.sockets[source], w.buf
	n, errno := netio.ReadNonblock(from.fd, buf[:])
	if errno == syscall.EAGAIN && from.urgent {
		// At urgent data, Linux also returns EAGAIN while the thread has a signal
		// pending, such as those of Go's scheduler. Nothing would report the rest.
		n, errno = netio.ReadNonblock(from.fd, buf[:])
	}
	if n == 0 {
		m.noBytesLocked(source, errno)
		return 0
	}
	if n >= largeRead {
		t.bulk, t.small = min(t.bulk+1, largeReads), 0
	} else {
		t.bulk, t.small = 0, min(t.small+1, smallReads)
		w.small = w.small || t.small == smallReads
	}
	// A read that returns less than was asked for has emptied the queue: question
	// 9 of epoll(7). It stops early at urgent data.
	from.readable = n == len(buf) || from.finished || from.urgent
	if m.ends.flows[source] == discarding {
		return n // which is no traffic: an idle timeout ends the relay
	}
	m.wheel.touch(&m.idler)
	m.writeLocked(source, buf[:n])
	return n
}

// noBytesLocked handles a read that has returned no bytes.
func (m *loopMover) noBytesLocked(source Side, errno syscall.Errno) {
	from := &m.sockets[source]
	switch {
	case errno == syscall.EAGAIN:
		from.readable = false
		return
	case errno != 0 || m.ends.hidesReset(source, from.failed, from.closed):
		m.doLocked(source, m.ends.resetBeforeEnd(source))
		return
	}
	m.doLocked(source, m.ends.end(source))
	if from.failed && !m.ends.over {
		m.doLocked(source.other(), m.ends.resetAfterEnd(source))
	}
}

// writeLocked writes what was read, and holds what the sink has no room for.
func (m *loopMover) writeLocked(source Side, bytes []byte) {
	t, to := &m.flows[source], &m.sockets[source.other()]
	n := 0
	if to.writable {
		var errno syscall.Errno
		m.beforeWriteLocked(source.other())
		n, errno = netio.WriteNonblock(to.fd, bytes)
		if errno != 0 && errno != syscall.EAGAIN {
			m.writeFailedLocked(source.other(), errno)
			return
		}
		t.add(n)
		if n == len(bytes) {
			return
		}
		m.awaitRoomLocked(to)
	}
	t.heldIn = netio.GetBuffer()
	t.held = t.heldIn[:copy(t.heldIn[:], bytes[n:])]
	m.ends.block(source)
}

// spliceLocked moves at most limit bytes through a pipe once, and returns how many
// it has read. It reads only what the sink has room for, so a flow that is blocked
// needs no pipe. It stops splicing, without losing a byte, if splice(2) does not
// work here, and leaves it to a read to tell the end of the stream from urgent
// data, before which splice(2) returns 0, too.
//
// Invariant: the pipe is empty on entry, so EAGAIN concerns the socket. It is empty
// on return.
func (m *loopMover) spliceLocked(source Side, p *pipe, limit int) (n int) {
	t, from, to := &m.flows[source], &m.sockets[source], &m.sockets[source.other()]
	room, low, errno := netio.RoomFD(to.fd)
	switch {
	case errno != 0:
		t.noSplice = true
		return 0
	case !to.writable || low:
		m.ends.block(source)
		m.awaitRoomLocked(to)
		return 0
	}
	n, errno = netio.SpliceNonblock(from.fd, p.Write, min(room, limit))
	switch {
	case n > 0:
		m.emptyPipeLocked(source, p, n) // first: a panic before it would leave the bytes to another relay
		t.spliced = uint16(min(int(t.spliced)+n, largeRead))
		m.wheel.touch(&m.idler)
		return n
	case errno == syscall.EAGAIN:
		from.readable = false
	case errno == 0:
		t.bulk = 0
		return 0
	case cannotSplice(errno):
		t.noSplice = true
		return 0
	default:
		m.noBytesLocked(source, errno)
	}
	if t.spliced < largeRead {
		t.bulk = 0 // too little for splicing
	}
	t.spliced = 0
	return 0
}

// emptyPipeLocked writes the n bytes that a pipe holds. What the sink does not
// take, although it had room, is moved to memory.
func (m *loopMover) emptyPipeLocked(source Side, p *pipe, n int) {
	t, to := &m.flows[source], &m.sockets[source.other()]
	p.bytes = n
	for p.bytes > 0 {
		n, errno := netio.SpliceNonblock(p.Read, to.fd, p.bytes)
		switch {
		case n > 0:
			p.bytes -= n
			t.add(n)
			continue
		case errno == syscall.EAGAIN || errno == 0:
			m.awaitRoomLocked(to)
			t.bulk = 0
		case cannotSplice(errno):
			t.noSplice = true
		default:
			p.close()
			m.writeFailedLocked(source.other(), errno)
			return
		}
		if t.held, errno = p.drain(); errno != 0 {
			m.exhaustedLocked(os.NewSyscallError("read", errno)) // never seen
			return
		}
		m.ends.block(source)
	}
}

// cannotSplice reports whether an error of splice(2) is its own, and not that of
// a connection: the kernel, a sandbox or the kind of socket does not support it,
// or there is no memory for it.
func cannotSplice(errno syscall.Errno) bool {
	switch errno {
	case syscall.EINVAL, syscall.ENOSYS, syscall.EPERM, syscall.EACCES, syscall.ENOMEM, syscall.EOPNOTSUPP:
		return true
	}
	return false
}

// flushLocked writes held bytes until none are left or the sink has no room.
func (m *loopMover) flushLocked(source Side) {
	t, to := &m.flows[source], &m.sockets[source.other()]
	for len(t.held) > 0 {
		m.beforeWriteLocked(source.other())
		n, errno := netio.WriteNonblock(to.fd, t.held)
		switch {
		case errno == syscall.EAGAIN:
			m.awaitRoomLocked(to)
			return
		case errno != 0:
			m.writeFailedLocked(source.other(), errno)
			return
		}
		m.wheel.touch(&m.idler)
		t.add(n)
		t.held = t.held[n:]
	}
	t.drop()
	m.doLocked(source, m.ends.room(source))
}

// awaitRoomLocked records that a socket has no room, and has the loop report when
// it has.
//
// The kernel reports room only after a write or a poll has found none. A change of
// the events is such a poll.
func (m *loopMover) awaitRoomLocked(s *socket) {
	s.writable, s.watchOut = false, true
	if s.token != 0 && m.loop.poller.Change(s.token, s.fd, s.events()) != nil {
		s.writable = true // cannot happen: the descriptor is watched
	}
}

// drop drops the held bytes and returns the buffer.
func (t *transfer) drop() {
	if t.heldIn != nil {
		t.heldIn.Free()
	}
	t.held, t.heldIn = nil, nil
}
