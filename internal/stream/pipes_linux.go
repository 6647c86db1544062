package stream

import (
	"sync"

	"github.com/async-relay/caddy-relay/internal/netio"
)

const (
	// pipeSize is the capacity requested for a pipe, the largest that users
	// without privileges get (pipe-max-size of pipe(7)). With the default of 64
	// KiB, splicing costs as much as copying.
	pipeSize = 1 << 20
	// maxPipes bounds the pipes of a process to half of the pipe memory of a user
	// without privileges (pipe-user-pages-soft of pipe(7): 64 MiB).
	maxPipes = 32
	// maxIdlePipes is how many empty pipes are kept for later flows.
	maxIdlePipes = 8
)

// pipe holds spliced bytes between two sockets.
type pipe struct {
	netio.Pipe
	bytes int // in the pipe
}

// pipes lends pipes to flows of bulk data. All loops of an engine share one.
type pipes struct {
	off bool // set once: RELAY_DISABLE has splice

	mu   sync.Mutex // guards the fields below
	idle []*pipe
	open int
}

func newPipes() *pipes { return &pipes{off: netio.Disabled("splice")} }

// get returns an empty pipe, or nil if there is none: then bytes are copied.
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
	opened, err := netio.NewPipe(pipeSize)
	if err != nil {
		return nil
	}
	s.open++
	return &pipe{Pipe: opened}
}

// put takes a pipe back. It closes a pipe that is not empty.
func (s *pipes) put(p *pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.bytes == 0 && len(s.idle) < maxIdlePipes {
		s.idle = append(s.idle, p)
		return
	}
	s.closeLocked(p)
}

func (s *pipes) closeLocked(p *pipe) {
	p.Close()
	s.open--
}

// trim closes the idle pipes.
func (s *pipes) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.idle {
		s.closeLocked(p)
	}
	s.idle = nil
}
