package handler

import (
	"net/netip"
	"slices"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file makes UDP sessions follow the names of their backends.

// NameResolved makes the UDP sessions leave those addresses that a name has lost.
// The caller calls it with each answer that may differ from the one before, after
// [Resolver.Cached] returns that answer. A session begins a new attempt on its
// backend at once if it has unanswered datagrams, or else with its next datagram.
func (s *Service) NameResolved(host string, addrs []netip.Addr) {
	for _, session := range s.sessions.all() {
		session.nameResolved(host, addrs)
	}
}

// UsedByUDP returns the names of the backends that UDP sessions have sockets to.
func (s *Service) UsedByUDP() (hosts []string) {
	for _, b := range s.Stats(time.Now()).Backends {
		if b.Backend.Host != "" && !b.Backend.IP.IsValid() && b.Use[upstream.UDP].Active > 0 && !slices.Contains(hosts, b.Backend.Host) {
			hosts = append(hosts, b.Backend.Host)
		}
	}
	return hosts
}

func (s *session) nameResolved(host string, addrs []netip.Addr) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase != open || s.attempt.Backend.IP.IsValid() || s.attempt.Backend.Host != host {
		return
	}
	s.addrLost = !slices.Contains(addrs, s.addrs[s.at])
	if s.addrLost && s.waiting {
		s.followNameLocked(time.Now())
	}
}

// followNameLocked begins an attempt on the current addresses of the backend's name.
func (s *session) followNameLocked(now time.Time) {
	s.addrLost = false
	if s.phase == open {
		s.startAttemptLocked(s.walk.Resume(s.attempt.Backend, now), query{})
	}
}

// newestLocked returns the addresses of a backend that the cache has by now, or else
// addrs, which a lookup has returned. Without that, a session that opens its socket
// just after a NameResolved would miss it.
func (s *session) newestLocked(b *upstream.Backend, addrs []netip.Addr) []netip.Addr {
	if newest, ok := s.relay.known(b); ok {
		return newest
	}
	return addrs
}
