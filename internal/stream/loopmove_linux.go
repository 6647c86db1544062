package stream

import (
	"os"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// transfer is what a relay on a loop keeps for one direction, in addition to its
// state in ends. At rest it has neither a buffer nor a pipe.
//
// Invariant: it holds bytes exactly while its flow is blocked, ending or failing.
type transfer struct {
	counter

	held     []byte        // bytes that the sink had no room for
	heldIn   *netio.Buffer // the pooled buffer that they are in; nil: another one
	pipe     *pipe         // for spliced bytes; they go after held
	noSplice bool          // splice(2) does not work on these sockets
	bulk     uint8         // how many reads in a row were large
	spliced  int           // bytes spliced since the pipe was taken
}

// A direction is copied until largeReads reads in a row have filled at least
// largeRead of the loop's buffer. Then it is spliced until it runs dry.
const (
	largeRead  = 32 << 10
	largeReads = 2
	// maxCalls is how many reads and writes one direction makes before other
	// relays of the loop have their turn.
	maxCalls = 8
)

// moveLocked moves what can be moved in both directions. more is true if there
// is more to move than one turn allows.
func (m *loopMover) moveLocked(buf *netio.Buffer) (more bool) {
	for _, source := range []Side{ClientSide, BackendSide} {
		m.moveOneLocked(source, buf)
		if m.ends.over {
			return false
		}
	}
	return m.canMoveLocked(ClientSide) || m.canMoveLocked(BackendSide)
}

// canMoveLocked reports whether a direction may have something to move.
func (m *loopMover) canMoveLocked(source Side) bool {
	flow := m.ends.flows[source]
	return flow.reads() && m.sockets[source].readable || flow.holds() && m.sockets[source.other()].writable
}

func (m *loopMover) moveOneLocked(source Side, buf *netio.Buffer) {
	t, from := &m.flows[source], &m.sockets[source]
	for range maxCalls {
		flow := m.ends.flows[source]
		switch {
		case flow.holds():
			if !m.sockets[source.other()].writable {
				return
			}
			m.flushLocked(source)
		case !flow.reads() || !from.readable:
			t.releasePipe(m.loop.pipes)
			return
		case flow == flowing && m.splicesLocked(source):
			m.spliceLocked(source)
		default:
			m.copyLocked(source, buf)
		}
		if m.ends.over {
			return
		}
	}
	if !m.ends.flows[source].holds() && !m.canMoveLocked(source) {
		t.releasePipe(m.loop.pipes) // the last call has found nothing
	}
}

// splicesLocked reports whether a direction is spliced, and takes a pipe for one
// that has become bulk.
func (m *loopMover) splicesLocked(source Side) bool {
	t := &m.flows[source]
	if t.noSplice || m.sockets[source].urgent {
		t.bulk = 0
	}
	switch {
	case t.bulk < largeReads:
		t.releasePipe(m.loop.pipes)
	case t.pipe == nil:
		t.pipe, t.spliced = m.loop.pipes.get(), 0
	}
	return t.pipe != nil
}

// copyLocked reads once, and writes what was read.
func (m *loopMover) copyLocked(source Side, buf *netio.Buffer) {
	t, from := &m.flows[source], &m.sockets[source]
	n, errno := netio.ReadNonblock(from.fd, buf[:])
	if errno == syscall.EAGAIN && from.urgent {
		// At urgent data, Linux also returns EAGAIN while the thread has a signal
		// pending, such as those of Go's scheduler. Nothing would report the rest.
		n, errno = netio.ReadNonblock(from.fd, buf[:])
	}
	if n == 0 {
		m.noBytesLocked(source, errno)
		return
	}
	if n < largeRead {
		t.bulk = 0
	} else if t.bulk < largeReads {
		t.bulk++
	}
	// A read that returns less than was asked for has emptied the queue: question
	// 9 of epoll(7). It stops early at urgent data.
	from.readable = n == len(buf) || from.finished || from.urgent
	if m.ends.flows[source] == discarding {
		return // which is no traffic: an idle timeout ends the relay
	}
	m.wheel.touch(&m.idler)
	m.writeLocked(source, buf[:n])
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

// spliceLocked moves bytes through the pipe once. It stops splicing, without
// losing a byte, if splice(2) does not work here, and leaves it to a read to tell
// the end of the stream from urgent data, before which splice(2) returns 0, too.
//
// Invariant: the pipe is empty on entry, so EAGAIN concerns the socket.
func (m *loopMover) spliceLocked(source Side) {
	t, from := &m.flows[source], &m.sockets[source]
	n, errno := netio.SpliceNonblock(from.fd, t.pipe.Write, pipeSize)
	switch {
	case n > 0:
		t.pipe.bytes = n
		t.spliced += n
		m.wheel.touch(&m.idler)
		m.ends.block(source)
		m.flushLocked(source)
		return
	case errno == syscall.EAGAIN:
		from.readable = false
	case errno == 0:
		t.bulk = 0
		return
	case cannotSplice(errno):
		t.noSplice = true
		return
	default:
		m.noBytesLocked(source, errno)
	}
	if t.spliced < largeRead {
		t.bulk = 0 // too little for a pipe
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
	for t.bytesHeld() > 0 {
		if !to.writable {
			return
		}
		n, errno := 0, syscall.Errno(0)
		switch {
		case len(t.held) > 0:
			n, errno = netio.WriteNonblock(to.fd, t.held)
		case t.noSplice:
			if errno := t.drainPipe(); errno != 0 {
				m.exhaustedLocked(os.NewSyscallError("read", errno)) // never seen
				return
			}
			continue
		default:
			n, errno = netio.SpliceNonblock(t.pipe.Read, to.fd, t.pipe.bytes)
		}
		switch {
		case errno == syscall.EAGAIN || errno == 0 && n == 0:
			m.awaitRoomLocked(to)
			return
		case errno != 0 && len(t.held) == 0 && cannotSplice(errno):
			t.noSplice = true
			continue
		case errno != 0:
			m.writeFailedLocked(source.other(), errno)
			return
		}
		m.wheel.touch(&m.idler)
		t.add(n)
		if len(t.held) == 0 {
			t.pipe.bytes -= n
		} else if t.held = t.held[n:]; len(t.held) == 0 {
			t.freeHeld()
		}
	}
	m.doLocked(source, m.ends.room(source))
}

// awaitRoomLocked records that a socket has no room, and has the loop report when
// it has.
func (m *loopMover) awaitRoomLocked(s *socket) {
	s.writable = false
	if s.watchOut {
		return
	}
	s.watchOut = true
	if s.token != 0 && m.loop.poller.Change(s.token, s.fd, s.events()) != nil {
		s.writable = true // cannot happen: the descriptor is watched
	}
}

// bytesHeld returns how many bytes were read and not written.
func (t *transfer) bytesHeld() int {
	n := len(t.held)
	if t.pipe != nil {
		n += t.pipe.bytes
	}
	return n
}

// drainPipe reads from the pipe into memory, as much as a buffer takes.
//
// Precondition: no bytes are held in memory.
func (t *transfer) drainPipe() syscall.Errno {
	buf := netio.GetBuffer()
	n, errno := t.pipe.ReadNonblock(buf[:])
	if errno != 0 {
		buf.Free()
		return errno
	}
	t.pipe.bytes -= n
	t.held, t.heldIn = buf[:n], buf
	return 0
}

// releasePipe returns the pipe, which the flow needs only while bulk flows.
func (t *transfer) releasePipe(pipes *pipes) {
	if t.pipe != nil {
		pipes.put(t.pipe)
		t.pipe = nil
	}
}

// drop drops the held bytes and returns buffer and pipe.
func (t *transfer) drop(pipes *pipes) {
	t.releasePipe(pipes)
	t.freeHeld()
}

func (t *transfer) freeHeld() {
	if t.heldIn != nil {
		t.heldIn.Free()
	}
	t.held, t.heldIn = nil, nil
}
