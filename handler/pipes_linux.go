package handler

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

const (
	// pipeSize is what is asked for a pipe to hold, the most that the kernel
	// gives without privileges: what arrives in one go then leaves in one go. With
	// the kernel's own 64 KiB splicing costs as much as copying.
	pipeSize = 1 << 20
	// maxPipes bounds the pipes of a process to half of what the kernel lets
	// a user without privileges have (pipe-user-pages-soft of pipe(7): 64 MiB).
	maxPipes = 32
	// idlePipes is how many are kept for the next flow.
	idlePipes = 8
)

// pipe is what spliced bytes wait in.
type pipe struct {
	pool        *pipes
	read, write int // descriptors
	bytes       int // in it
}

// pipes lends pipes to flows while they have bulk to move.
type pipes struct {
	off bool // set once: nothing is spliced

	mu   sync.Mutex // guards what follows
	idle []*pipe
	open int
}

func newPipes() *pipes { return &pipes{off: netio.Disabled("splice")} }

// get is nil if there is no pipe to be had: bytes are copied then.
func (s *pipes) get() *pipe {
	if s.off {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.idle) - 1; last >= 0 {
		p := s.idle[last]
		s.idle = s.idle[:last]
		return p
	}
	if s.open == maxPipes {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // else it holds less
	s.open++
	return &pipe{pool: s, read: fds[0], write: fds[1]}
}

// put gives a pipe back. One that is not empty is of no use to others.
func (p *pipe) put() {
	s := p.pool
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.bytes == 0 && len(s.idle) < idlePipes {
		s.idle = append(s.idle, p)
		return
	}
	s.closeLocked(p)
}

func (s *pipes) closeLocked(p *pipe) {
	netio.CloseDescriptor(p.read)
	netio.CloseDescriptor(p.write)
	s.open--
}

// trim closes the pipes that nobody has.
func (s *pipes) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.idle {
		s.closeLocked(p)
	}
	s.idle = nil
}
