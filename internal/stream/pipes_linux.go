package stream

import (
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// pipeSize is the capacity requested for a pipe, the largest that users without
// privileges get (pipe-max-size of pipe(7)). With the default of 64 KiB, splicing
// costs as much as copying.
const pipeSize = 1 << 20

// pipe is what one goroutine of a loop splices through. Relays use it one after the
// other, and each leaves it empty, so bytes of one never reach another. Its zero value opens
// a pipe when it is first needed.
type pipe struct {
	netio.Pipe
	off    bool // splice(2) is not used
	opened bool
	bytes  int // in the pipe; not 0 on entry if a relay has panicked
}

// open reports whether there is an empty pipe, which it opens if necessary.
func (p *pipe) open() bool {
	if p == nil || p.off {
		return false
	}
	if p.bytes > 0 {
		p.close()
	}
	if !p.opened {
		opened, err := netio.NewPipe(pipeSize)
		if err != nil {
			return false
		}
		p.Pipe, p.opened = opened, true
	}
	return true
}

// close closes the pipe. What it holds is lost.
func (p *pipe) close() {
	if p.opened {
		p.Close()
		p.opened, p.bytes = false, 0
	}
}

// drain moves what the pipe holds to memory.
func (p *pipe) drain() ([]byte, syscall.Errno) {
	bytes := make([]byte, p.bytes)
	for rest := bytes; len(rest) > 0; {
		n, errno := p.ReadNonblock(rest)
		if errno != 0 {
			return nil, errno
		}
		rest = rest[n:]
		p.bytes -= n
	}
	return bytes, 0
}
