package handler

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file keeps UDP sessions from being their own clients: over this process by
// [Loops], and over other programs by a limit.

// Wrapped is implemented by those [Replier]s whose client's socket may have other
// addresses than the session's key.
type Wrapped interface {
	// SocketAddrs returns the addresses of the client's socket, that of the client
	// first.
	SocketAddrs() (client, local netip.AddrPort)
}

func (s *session) socketAddrsLocked() socketAddrs {
	if wrapped, ok := s.client.(Wrapped); ok {
		client, local := wrapped.SocketAddrs()
		return socketAddrs{client, local}
	}
	return socketAddrs{s.key.Client, s.key.Local}
}

// admitAddrLocked returns an error if an attempt on an address would close a loop.
// hop is not nil if the address leads to this process; the caller calls hop.add
// once it has a socket.
func (s *session) admitAddrLocked(addr netip.AddrPort) (hop *chain, err error) {
	loops := s.relay.opts.Loops
	if !loops.hasPort(upstream.UDP, addr.Port()) {
		return nil, nil
	}
	from := s.socketAddrsLocked()
	to, own := loops.listenerAt(upstream.UDP, addr, normal(from.local).Addr())
	if !own {
		return nil, nil
	}
	e := s.extrasLocked()
	if e.chain == nil {
		e.chain = loops.chainOf(context.Background(), upstream.UDP, s.relay.service.Name, from)
	}
	if err := e.chain.check(to); err != nil {
		s.relay.noteLoop(upstream.UDP, s.key.Client.String(), addr, err)
		return nil, dial.FailedUDP(addr, err)
	}
	return e.chain, nil
}

// leaveHopsLocked removes the hops of a session that closes its socket.
func (s *session) leaveHopsLocked() {
	if s.extras != nil && s.extras.chain != nil {
		s.extras.chain.removeHops()
	}
}

// unansweredLimit limits the new sessions of a service whose client has the address
// of the backend's machine and that have no answer, see [sameHost]: a loop over
// another program makes one after the other and gets no answer. An answer gives the
// place of its session back.
//
// It is a leaky bucket of unansweredRate sessions, which loses as many each second.
// The value is when the bucket will be empty, in nanoseconds after sessions.epoch.
type unansweredLimit struct{ empty atomic.Int64 }

const (
	unansweredRate  = 1000 // sessions per second
	unansweredShare = int64(time.Second) / unansweredRate
)

// take adds a session to the bucket. It returns false if the bucket is full.
func (u *unansweredLimit) take(now time.Duration) bool {
	for {
		before := u.empty.Load()
		after := max(before, int64(now)) + unansweredShare
		if after-int64(now) > int64(time.Second) {
			return false
		}
		if u.empty.CompareAndSwap(before, after) {
			return true
		}
	}
}

// giveBack removes a session that was answered.
func (u *unansweredLimit) giveBack() { u.empty.Add(-unansweredShare) }

// admitUnansweredLocked reports whether the session may send to an address, with
// regard to [unansweredLimit]. When the limit is reached, all such sessions of the
// service are refused: otherwise each datagram of the client that began the loop
// would run through all of it.
func (s *session) admitUnansweredLocked(addr netip.AddrPort) bool {
	if s.relay.opts.Loops == nil || s.answeredBy != nil || s.unanswered || !sameHost(s.socketAddrsLocked().client.Addr(), addr.Addr()) {
		return true
	}
	service := s.relay.service
	if service.unanswered.take(time.Since(service.sessions.epoch)) {
		s.unanswered = true
		return true
	}
	s.note(sameHostUDP, zap.Stringer("address", addr))
	if !service.refusingUnanswered.Swap(true) {
		go func() { // ends when the sessions of the table are refused
			defer service.refusingUnanswered.Store(false)
			for _, other := range service.sessions.all() {
				other.refuseUnanswered()
			}
		}()
	}
	return false
}

// refuseUnanswered refuses a session that counts against [unansweredLimit].
func (s *session) refuseUnanswered() {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.unanswered && s.answeredBy == nil && s.phase == open {
		s.unanswered = false
		s.refuseLocked(errSameHost)
	}
}

// uncountLocked gives back the place in [unansweredLimit] of a session that has an
// answer.
func (s *session) uncountLocked() {
	if s.unanswered {
		s.unanswered = false
		s.relay.service.unanswered.giveBack()
	}
}
