package handler

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dgram"
)

// This file contains how a session sends datagrams to its backend.

// sendBacklogLocked sends the whole backlog on a new socket. If the socket fails,
// the next one sends the whole backlog again.
func (s *session) sendBacklogLocked() {
	for i := 0; i < len(s.backlog.datagrams); {
		sent, err := s.sendLocked(s.backlog.datagrams[i:], i == 0)
		i += sent
		switch {
		case err == nil:
		case dgram.Unsent(err): // it stays in the backlog for the next socket
			i++
		case s.datagramLostLocked(err):
			s.dropLocked(dropped, s.backlog.datagrams[i], zap.Error(err))
			s.countUpLocked()
			s.backlog.remove(i)
			s.requests--
		default:
			s.socketFailedLocked(err)
			return
		}
	}
	s.backlog.trim()
	if len(s.backlog.datagrams) == 0 { // none was sent
		s.stopWaitingLocked()
	}
}

// forwardLocked sends datagrams from the client on the open socket, and keeps
// copies in case another socket has to send them again. It returns how many
// datagrams it has handled. The caller passes the others according to the phase,
// which changes if the socket fails.
func (s *session) forwardLocked(datagrams [][]byte, now time.Time) (handled int) {
	allAnswered := !s.waiting
	if allAnswered {
		s.resumeLocked(now)
	}
	arrived := s.relay.opts.Backlogs.since(now)
	for handled < len(datagrams) {
		sent, err := s.sendLocked(datagrams[handled:], allAnswered)
		allAnswered = allAnswered && sent == 0
		s.backlog.addSent(datagrams[handled:handled+sent], arrived)
		s.requests += int32(sent)
		handled += sent
		switch {
		case err == nil:
		case dgram.Unsent(err): // if the backend has failed, the next socket sends it
			s.backlog.addSent(datagrams[handled:handled+1], arrived)
			s.requests++
			handled++
			allAnswered = false
		case s.datagramLostLocked(err):
			s.dropLocked(dropped, datagrams[handled], zap.Error(err))
			handled++
		default:
			s.backlog.add(datagrams[handled], arrived) // there is room after addSent
			s.requests++
			s.socketFailedLocked(err)
			return handled + 1
		}
	}
	if allAnswered { // none was sent
		s.stopWaitingLocked()
	}
	return handled
}

// sendLocked sends datagrams. allAnswered means that nothing sent on the socket
// before is unanswered. An error of the first datagram then belongs to an earlier
// one, which was answered all the same, so the first datagram is sent again.
func (s *session) sendLocked(datagrams [][]byte, allAnswered bool) (sent int, err error) {
	b := s.socket
	if b.drilled() {
		return len(datagrams), nil // the drill's backend is silent
	}
	if s.relay.opts.ProxyProtocol == ProxyProtocolV2 {
		datagrams = s.addHeadersLocked(b, datagrams)
	}
	sent, err = b.conn.Send(datagrams)
	if err != nil && sent == 0 && allAnswered && !dgram.DatagramRejected(err) {
		sent, err = b.conn.Send(datagrams)
	}
	if sent > 0 {
		if !b.used {
			b.used = true // written once only: the other direction reads the same cache line
		}
		if b.rejectedSince != 0 {
			b.rejectedSince = 0
		}
	}
	return sent, err
}

// datagramLostLocked reports whether an error of a send costs that datagram only.
// That is so if the datagram itself was rejected, and while this machine rejects
// what it has sent on the same socket before, as a firewall does while it is
// reloaded. If that lasts for the connect timeout, the socket has failed.
func (s *session) datagramLostLocked(err error) bool {
	b := s.socket
	if dgram.DatagramRejected(err) {
		return true
	}
	if !b.used || dgram.SocketFailed(err) {
		return false
	}
	now := s.sinceEpoch(time.Now())
	if b.rejectedSince == 0 {
		b.rejectedSince = max(now, 1) // which is not 0
	}
	return now-b.rejectedSince < s.relay.opts.ConnectTimeout
}

// addHeadersLocked returns the datagrams with the PROXY protocol header in front
// of the socket's first datagram, or of each one if ProxyProtocolEvery is set.
func (s *session) addHeadersLocked(b *backendSocket, datagrams [][]byte) [][]byte {
	every := s.relay.opts.ProxyProtocolEvery
	if b.used && !every {
		return datagrams
	}
	e := s.extrasLocked()
	if e.header == nil {
		e.header = s.relay.opts.ProxyProtocol.datagramHeader(s.key)
	}
	withHeaders := slices.Clone(datagrams)
	for i, datagram := range datagrams {
		withHeaders[i] = slices.Concat(e.header, datagram)
		if !every {
			break
		}
	}
	return withHeaders
}
