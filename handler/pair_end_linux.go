package handler

import (
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is how a pair begins to carry bytes, and how it ends.

// carryLocked begins to carry bytes: first what is there already, as a client
// has mostly said something by now, and then what the loop tells of.
func (p *pair) carryLocked(o outcome, buf *netio.Buffer) (more bool) {
	if why := p.relay.found(p, o); why != "" {
		p.endLocked(why)
		return false
	}
	p.halves[clientSide].total, p.halves[backendSide].total = &p.relay.tally.bytesUp, &p.relay.tally.bytesDown
	p.relay.relay.wheel.add(&p.idler)
	more = p.moveLocked(buf)
	if p.over {
		return false
	}
	if more { // the loop is told of the room that there is, and goes on
		p.ends[clientSide].waited, p.ends[backendSide].waited = true, true
	}
	if err := p.loop.add(p, clientSide, backendSide); err != nil {
		r := p.relay.relay
		r.service.floods.note(r.log, lackOfOwn, zap.Stringer("network", upstream.TCP), zap.Error(err))
		p.endLocked(exhausted)
		return false
	}
	return more
}

// endIdle implements the wheel's owner.
func (p *pair) endIdle() {
	defer p.guard()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	w := p.relay.relay.wheel
	if w.now()-p.used.Load() < int64(w.timeout) {
		w.putBack(&p.idler) // bytes have moved just now
		return
	}
	p.endLocked(idleTimeout)
}

// cut implements carrier.
func (p *pair) cut(why reason) {
	defer p.guard()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(why)
}

// guard is deferred first in all that runs for the pair: a panic ends this
// relay and nothing else.
func (p *pair) guard() {
	if what := recover(); what != nil {
		p.relay.relay.panicked(upstream.TCP, p.relay.client.String(), what)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.endLocked(panicked)
	}
}

// endLocked ends the relay, once.
func (p *pair) endLocked(why reason) {
	if p.over {
		return
	}
	p.over = true
	t := p.relay
	defer t.relay.service.leave(t) // also if what follows panics
	p.loop.remove(p)
	t.relay.wheel.remove(&p.idler)
	whole := p.halves[clientSide].settled && p.halves[backendSide].settled
	for which := range p.ends {
		p.halves[which].drop()
		fd := p.ends[which].fd
		switch {
		case fd < 0:
		case why == idleTimeout:
			// A shutdown first: a close alone would reset a peer whose bytes lie
			// unread, without a FIN.
			finish(fd)
			netio.CloseDescriptor(fd)
		case whole && (why == clientClosed || why == backendClosed):
			netio.CloseDescriptor(fd)
		default:
			netio.ResetDescriptor(fd)
		}
	}
	if p.connecting != nil && p.connecting.late != nil {
		p.connecting.late.Stop()
	}
	if t.backend == nil { // nor is there one to come
		t.refused(cutError{why})
		return
	}
	t.ended(why, p.halves[clientSide].sum, p.halves[backendSide].sum)
}
