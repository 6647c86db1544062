package handler

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file is what is counted and told of a session.

// more is what the access log and the PROXY protocol need of a session.
type more struct {
	tried   tried
	dialled time.Duration // until the latest backend's first answer
	header  []byte
}

// tallyLocked is that of the backend that the session is with; nil if there
// has been none.
func (s *session) tallyLocked() *tally {
	if b := s.attempt.Backend; b != s.tallyOf {
		s.tally, s.tallyOf = s.relay.service.tallies.get(b, upstream.UDP), b
	}
	return s.tally
}

func (s *session) moreLocked() *more {
	if s.more == nil {
		s.more = new(more)
	}
	return s.more
}

// recordLocked keeps what came of an attempt for the access log.
func (s *session) recordLocked(o outcome) {
	if s.relay.logs(upstream.UDP) && !errors.Is(o.err, errUnchanged) {
		m := s.moreLocked()
		m.tried.add(o)
		m.dialled = o.took
	}
}

// bookUpLocked has the tally say what the session does of the client's datagrams.
func (s *session) bookUpLocked() {
	if t := s.tallyLocked(); t != nil {
		t.datagramsUp.Add(uint64(s.upN - s.bookedN)) // less, where some could not be sent after all
		t.bytesUp.Add(uint64(s.upB - s.bookedB))
		s.bookedN, s.bookedB = s.upN, s.upB
	}
}

// dropLocked counts a datagram of the client's that goes nowhere.
func (s *session) dropLocked(why flood, datagram []byte, more ...zap.Field) {
	s.upN--
	s.upB -= int64(len(datagram))
	s.note(why, more...)
}

func bytesOf(datagrams [][]byte) (bytes int64) {
	for _, datagram := range datagrams {
		bytes += int64(len(datagram))
	}
	return bytes
}

func (s *session) logEndLocked(why reason) {
	backend := ""
	if s.attempt.Backend != nil {
		backend = s.attempt.Backend.Text
	}
	if s.relay.logs(upstream.UDP) {
		m := s.moreLocked()
		a := record{
			network: upstream.UDP, client: net.UDPAddrFromAddrPort(s.key.Client), local: net.UDPAddrFromAddrPort(s.key.Local),
			backend: backend, tried: m.tried, dialled: m.dialled, began: s.began,
			bytesUp: s.upB, bytesDown: s.downB, upN: s.upN, downN: s.downN, why: why,
		}
		if why == refusedClient { // as TCP's line
			a.backend, a.dialled = "", 0
		} else if s.at < len(s.addrs) {
			a.address = netip.AddrPortFrom(s.addrs[s.at], s.attempt.Backend.Port)
		}
		s.relay.accessed(a)
	}
	if line := s.relay.log.Check(zap.DebugLevel, "relay ended"); line != nil {
		line.Write(zap.Stringer("network", upstream.UDP),
			zap.Stringer("client", &s.key.Client),
			zap.String("backend", backend),
			zap.Duration("duration", time.Since(s.began)),
			zap.Int64("bytes_up", s.upB), zap.Int64("bytes_down", s.downB),
			zap.Int64("datagrams_up", s.upN), zap.Int64("datagrams_down", s.downN),
			zap.String("reason", string(why)))
	}
}
