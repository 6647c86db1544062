package dgram

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

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

	turn   uint32 // of the loop, when the socket was last read; used by the loop only, as are streak and flow
	streak uint32 // in how many turns in a row the socket was readable, less one
	flow   uint8  // for how many turns more the socket is read in batches

	// mu guards the fields below. It is held while fd is read: fd must not be
	// closed meanwhile, because another socket may get the same number.
	mu       sync.Mutex
	token    netio.Token
	sink     Sink
	failures int // errors in a row, of one session
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
		sink.Datagrams(datagrams)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, net.ErrClosed):
	default:
		sink.Failed(os.NewSyscallError("read", err)) // this may close the socket
		s.stopIfBroken()
	}
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
	if batch {
		receive = receiver.ReceiveNonblock
	}
	datagrams, err := receive(s.fd)
	switch {
	case err == nil:
		s.failures = 0
	case !errors.Is(err, syscall.EAGAIN):
		s.failures++
	}
	return datagrams, s.sink, err
}

// stopIfBroken stops reading the socket if one session had too many errors in a
// row. The next Send returns net.ErrClosed.
func (s *loopSocket) stopIfBroken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures >= maxFailures && !s.closed {
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
	if sent, err = s.sender.SendNonblock(s.fd, nil, datagrams); err != nil {
		err = os.NewSyscallError("write", err)
	}
	return sent, err
}

// Close implements [Socket].
func (s *loopSocket) Close() {
	if !s.makeSpare() {
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
