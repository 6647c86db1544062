package handler

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// loopSocket is a connected UDP socket in a loop. Send and Close are called
// under its session's lock and so never together.
type loopSocket struct {
	loop    *loop   // set once, as are spares, fd and ipv4
	spares  *spares // where it goes when its session ends
	fd      int
	ipv4    bool
	sending netio.Sender

	place  int32  // in loop.sockets, set once before it is there
	serial uint32 // tells it from others at its place before and after, the same

	grown  atomic.Bool // has large buffers
	broken atomic.Bool // given up after too many failures

	turn   uint32 // of the loop, when it was read last; the loop's own, as are streak and flows
	streak uint32 // how many turns in a row there was something to read
	flows  uint8  // for how many turns more it is asked for many

	mu       sync.Mutex // held while fd is read, so that it is not closed, and another's, meanwhile; guards what follows
	sink     Sink
	failures int // errors in a row of one session
	closed   bool
}

// A socket mostly has one datagram and is asked for one, which costs less than
// to ask for many. It flows if it has something in so many turns in a row as
// brisk says, or was found to have more than one within the last flowing turns.
const (
	brisk   = 2
	flowing = 16
)

// receive takes what came in, a batch at most: the others have their turn.
func (s *loopSocket) receive(receiver *netio.Receiver, turn uint32) {
	if s.streak++; s.turn != turn-1 {
		s.streak = 0
	}
	s.turn = turn
	many := s.flows > 0 || s.streak >= brisk
	datagrams, sink, err := s.read(receiver, many)
	switch {
	case err == nil:
		switch {
		case len(datagrams) > 1:
			s.flows = flowing
		case s.flows > 0:
			s.flows--
		}
		if len(datagrams) >= busy {
			s.grow()
		}
		sink.Datagrams(datagrams)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, net.ErrClosed):
	default:
		sink.Failed(os.NewSyscallError("read", err)) // which may be the end of its session
		if s.worn() {
			s.loop.giveUp(s)
			s.broken.Store(true) // whoever sends next is told
		}
	}
}

// worn says whether one session has had too many errors in a row.
func (s *loopSocket) worn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures >= maxFailures
}

// read says for whom what it reads is: the sink may be another's a moment later.
func (s *loopSocket) read(receiver *netio.Receiver, many bool) ([][]byte, Sink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, net.ErrClosed
	}
	receive := receiver.ReceiveOne
	if many {
		receive = receiver.Receive
	}
	datagrams, err := receive(s.fd)
	switch {
	case err == nil:
		s.failures = 0
	case !errors.Is(err, unix.EAGAIN):
		s.failures++
	}
	return datagrams, s.sink, err
}

// busy is how many datagrams at once show that a socket needs more room than
// the system gives by itself. Most sessions never do, and asking takes time.
const busy = 4

func (s *loopSocket) grow() {
	if !s.grown.Swap(true) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			netio.GrowBuffers(s.fd, netio.ConnectedBuffer)
		}
	}
}

// Send implements [Socket]. What finds no room fails: nobody waits for it.
func (s *loopSocket) Send(datagrams [][]byte) (sent int, err error) {
	if s.broken.Load() {
		return 0, net.ErrClosed
	}
	if len(datagrams) >= busy {
		s.grow()
	}
	if sent, err = s.sending.Send(s.fd, nil, datagrams); err != nil {
		err = os.NewSyscallError("write", err)
	}
	return sent, err
}

// Close implements [Socket].
func (s *loopSocket) Close() {
	if !s.spare() {
		s.close()
	}
}

func (s *loopSocket) close() {
	s.loop.remove(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	netio.CloseDescriptor(s.fd)
}
