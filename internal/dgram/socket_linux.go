package dgram

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// loopSocket is a [Socket] of an event loop.
type loopSocket struct {
	poller *poller // set once, as are the fields up to ipv4
	spares *spares // keeps the socket after its session has ended
	fd     int
	slot   netio.Slot
	ipv4   bool

	sender netio.Sender
	grown  atomic.Bool // the socket has large buffers
	broken atomic.Bool // the socket has failed too often and is not read any more
	failed atomic.Bool // the socket had an error, in this session or an earlier one

	// started is set by the first send of a session, under mu. Errors that are read
	// before that are of an earlier session, see sendFirst.
	started atomic.Bool

	turn   uint32 // of the loop, when the socket was last read; used by the loop only, as are streak and flow
	streak uint32 // in how many turns in a row the socket was readable, less one
	flow   uint8  // for how many turns more the socket is read in batches

	// mu guards the fields below. It is held while fd is read: fd must not be
	// closed meanwhile, because another socket may get the same number.
	mu       sync.Mutex
	token    netio.Token
	sink     Sink
	failures int    // errors in a row, of one session
	port     uint16 // the local port
	reused   bool   // the socket may receive what was sent to an earlier port of it
	closed   bool
}

// join adds a new socket to its event loop.
func (s *loopSocket) join() (err error) {
	// The loop may call receive before join returns.
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slot, err = s.poller.Join(s); err != nil {
		return err
	}
	if s.token, err = s.poller.Watch(s.slot, 0, s.fd, netio.Readable); err != nil {
		s.poller.Leave(s.slot)
	}
	return err
}

// handle implements [member]. It receives from the socket, which is readable or has
// errors.
func (s *loopSocket) handle(r *run, events netio.Events) {
	if events&netio.Failed != 0 && s.receiveErrors() && events&netio.Readable == 0 {
		return
	}
	s.receive(r.receiver, r.turn)
}

// Most sockets receive one datagram at a time, and reading one costs less than
// reading a batch of one. A socket is read in batches if it was readable in more
// than streakForBatch turns in a row, or if one of the last batchTurns batches
// held more than one datagram.
const (
	streakForBatch = 2
	batchTurns     = 16
)

// receive reads one datagram or one batch and passes it to the sink. It reads
// no more than that, so that the loop's other sockets get their turn.
func (s *loopSocket) receive(receiver *netio.Receiver, turn uint32) {
	if s.streak++; s.turn != turn-1 {
		s.streak = 0
	}
	s.turn = turn
	datagrams, sink, err := s.readNonblock(receiver, s.flow > 0 || s.streak >= streakForBatch)
	switch {
	case err == nil:
		switch {
		case len(datagrams) > 1:
			s.flow = batchTurns
		case s.flow > 0:
			s.flow--
		}
		if len(datagrams) >= growThreshold {
			s.growBuffers()
		}
		if len(datagrams) > 0 {
			sink.Datagrams(datagrams)
		}
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, net.ErrClosed):
	default:
		if !s.receiveErrors() { // the error queue holds the ICMP error that this is
			s.countFailure()
		}
	}
}

// errorsPerTurn bounds the ICMP errors of a socket that are handled in a row. They
// take the space of datagrams in the socket's buffer.
const errorsPerTurn = 64

// receiveErrors passes the ICMP errors in the socket's queue to the sink. It
// returns false if there are none.
func (s *loopSocket) receiveErrors() (any bool) {
	for range errorsPerTurn {
		err, sink, more := s.readErrorNonblock()
		if !more {
			return any
		}
		any = true
		if err != nil {
			sink.Failed(err) // this may close the socket
			if err.FromBackend {
				s.countFailure()
			}
		}
	}
	return any
}

// readErrorNonblock removes the first ICMP error from the socket's queue. The
// error is nil if it concerns a datagram of an earlier session. more is false if
// the queue was empty.
func (s *loopSocket) readErrorNonblock() (icmp *ICMPError, sink Sink, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, false
	}
	queued, err := netio.ReadErrorNonblock(s.fd)
	if err != nil {
		return nil, nil, false
	}
	s.failed.Store(true)
	if !s.started.Load() {
		return nil, nil, true
	}
	if peer, err := netio.PeerAddr(s.fd); err == nil {
		icmp = icmpError(queued, peer)
	}
	return icmp, s.sink, true
}

// readNonblock also returns the sink that the datagrams or the error are for:
// the socket may get another one as soon as the lock is released.
func (s *loopSocket) readNonblock(receiver *netio.Receiver, batch bool) ([][]byte, Sink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, net.ErrClosed
	}
	receive := receiver.ReceiveOneNonblock
	switch {
	case batch:
		receive = receiver.ReceiveNonblock
	case s.reused:
		receive = receiver.ReceiveMessageNonblock
	}
	datagrams, err := receive(s.fd)
	switch {
	case err == nil:
		s.failures = 0
		if s.reused {
			datagrams = s.ownLocked(receiver, datagrams)
		}
	case !errors.Is(err, syscall.EAGAIN):
		s.failed.Store(true)
	}
	return datagrams, s.sink, err
}

// ownLocked returns the datagrams that were sent to the socket's port. The others
// were sent to an earlier port of the socket, to another client: the kernel may
// have found the socket for them long ago, see spare_linux.go.
func (s *loopSocket) ownLocked(receiver *netio.Receiver, datagrams [][]byte) [][]byte {
	own := datagrams[:0]
	for i, datagram := range datagrams {
		if netio.DestinationPort(receiver.Control(i)) == s.port {
			own = append(own, datagram)
		}
	}
	return own
}

// countFailure stops reading the socket if one session had too many errors in a
// row. The next Send returns net.ErrClosed.
func (s *loopSocket) countFailure() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures++; s.failures == maxFailures && !s.closed {
		s.poller.Unwatch(s.token, s.fd)
		s.broken.Store(true)
	}
}

// growThreshold is how many datagrams in one batch make a socket get larger
// buffers than the system's default. Few sockets reach it, and setting the size
// costs system calls.
const growThreshold = 4

func (s *loopSocket) growBuffers() {
	if !s.grown.Swap(true) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			netio.GrowBuffers(s.fd, netio.ConnectedBuffer)
		}
	}
}

// Send implements [Socket].
func (s *loopSocket) Send(datagrams [][]byte) (sent int, err error) {
	if s.broken.Load() {
		return 0, net.ErrClosed
	}
	if len(datagrams) >= growThreshold {
		s.growBuffers()
	}
	if s.started.Load() {
		sent, err = s.sender.SendNonblock(s.fd, nil, datagrams)
	} else {
		sent, err = s.sendFirst(datagrams)
	}
	for range sendRetries {
		if !mayBePending(err) {
			break
		}
		// The event loop reports the ICMP error that this may be: it is in the
		// error queue too.
		s.failed.Store(true)
		var more int
		more, err = s.sender.SendNonblock(s.fd, nil, datagrams[sent:])
		sent += more
	}
	if err != nil {
		err = notFailed(os.NewSyscallError("write", err))
	}
	return sent, err
}

// sendFirst makes the first send of a session on a reused socket. If that fails at
// once, the error may be an ICMP error about a datagram of an earlier session. The
// loop cannot tell whose the entries in the error queue are, so they are removed
// here, before this session has sent anything. A socket whose earlier session has
// seen such an error is not reused.
func (s *loopSocket) sendFirst(datagrams [][]byte) (sent int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started.Store(true)
	sent, err = s.sender.SendNonblock(s.fd, nil, datagrams)
	if sent > 0 || !mayBePending(err) {
		return sent, err
	}
	s.failed.Store(true)
	for range maxDiscarded {
		if _, err := netio.ReadErrorNonblock(s.fd); err != nil {
			break
		}
	}
	return s.sender.SendNonblock(s.fd, nil, datagrams)
}

// maxDiscarded bounds the errors that sendFirst removes. No session leaves as many.
const maxDiscarded = 1000

// LocalAddr implements [Socket].
func (s *loopSocket) LocalAddr() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return netip.AddrPort{}
	}
	addr, _ := netio.LocalAddr(s.fd)
	return addr
}

// Close implements [Socket].
func (s *loopSocket) Close() {
	now := time.Now()
	ports.ended(s.port, now)
	s.release(now)
}

// release keeps the socket for another session, or closes it.
func (s *loopSocket) release(now time.Time) {
	if !s.makeSpare(now) {
		s.close()
	}
}

// close closes the descriptor. It must be called only once.
func (s *loopSocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.poller.Leave(s.slot)
	netio.CloseDescriptor(s.fd)
}
