package handler

import (
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file contains what a session counts and logs.

// extras holds what only few sessions need.
type extras struct {
	chain       *chain       // nil: no attempt has led to this process
	unreachable *unreachable // nil: the backend was not reported to be unreachable
	drill       sessionDrill
	taken       *taken // nil: the attempt is not one that ends a strike or down without an answer

	hold *sessionHold // nil: the session is not held

	// For the access log and the PROXY protocol.
	tried   tried
	held    time.Duration // how long the session was held
	dialled time.Duration // time until the latest backend's first answer
	header  []byte        // the PROXY protocol header; nil until first needed
}

// extrasLocked returns the extras, and makes them if there are none.
func (s *session) extrasLocked() *extras {
	if s.extras == nil {
		s.extras = new(extras)
	}
	return s.extras
}

// tallyLocked returns the counters of the attempt's backend; nil if there was no
// attempt yet.
func (s *session) tallyLocked() *tally {
	if b := s.attempt.Backend; b != s.tallyBackend {
		s.tally, s.tallyBackend = s.relay.service.tallies.get(b, upstream.UDP), b
	}
	return s.tally
}

// recordAttemptLocked keeps the result of an attempt for the access log.
func (s *session) recordAttemptLocked(o outcome) {
	if s.relay.logs(upstream.UDP) && !notMade(o.err) {
		e := s.extrasLocked()
		e.tried.add(o)
		e.dialled = o.took
	}
}

// countUpLocked adds to the tally what the client sent since the last call.
func (s *session) countUpLocked() {
	if t := s.tallyLocked(); t != nil {
		t.datagramsUp.Add(uint64(s.upN - s.countedN)) // negative if datagrams were dropped that were counted before
		t.bytesUp.Add(uint64(s.upB - s.countedB))
		s.countedN, s.countedB = s.upN, s.upB
	}
}

// dropLocked counts a datagram from the client that is not sent to a backend.
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

// logEndLocked writes the access log line and the debug line of a session that
// ended.
func (s *session) logEndLocked(why stream.Reason) {
	backend := ""
	if s.attempt.Backend != nil {
		backend = s.attempt.Backend.Text
	}
	if s.relay.logs(upstream.UDP) {
		e := s.extrasLocked()
		a := record{
			network: upstream.UDP, client: net.UDPAddrFromAddrPort(s.key.Client), local: net.UDPAddrFromAddrPort(s.key.Local),
			backend: backend, tried: e.tried, dialled: e.dialled, held: e.held, began: s.began,
			bytesUp: s.upB, bytesDown: s.downB, upN: s.upN, downN: s.downN, why: why,
		}
		if why == stream.RefusedNoBackend { // as in the line of a refused TCP client
			a.backend, a.dialled = "", 0
		} else if s.at < len(s.addrs) {
			a.address = netip.AddrPortFrom(s.addrs[s.at], s.portLocked())
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
