package handler

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dgram"
)

// This file is how a session's datagrams get to its backend.

// sendBacklogLocked sends all of the backlog on a new socket. If that fails,
// whichever comes next sends all of it.
func (s *session) sendBacklogLocked() {
	for i := 0; i < len(s.backlog.datagrams); {
		sent, err := s.sendLocked(s.backlog.datagrams[i:], i == 0)
		i += sent
		switch {
		case err == nil:
		case dgram.DatagramRejected(err):
			s.dropLocked(dropped, s.backlog.datagrams[i], zap.Error(err))
			s.bookUpLocked()
			s.backlog.remove(i)
			s.asked--
		default:
			s.flowFailedLocked(err)
			return
		}
	}
	s.backlog.trim()
	s.sentLocked()
}

// forwardLocked sends datagrams of the client on the open socket, and keeps
// what another may have to send again. It says how many it has seen to; the
// rest waits until it is clear what becomes of a socket that failed.
func (s *session) forwardLocked(datagrams [][]byte, now time.Time) (done int) {
	if !s.waiting {
		s.resumeLocked(now)
	}
	for done < len(datagrams) {
		sent, err := s.sendLocked(datagrams[done:], len(s.backlog.datagrams) == 0)
		s.backlog.keep(datagrams[done : done+sent])
		s.asked += int32(sent)
		done += sent
		switch {
		case err == nil:
		case dgram.DatagramRejected(err):
			s.dropLocked(dropped, datagrams[done], zap.Error(err))
			done++
		default:
			s.backlog.add(datagrams[done]) // there is room, after keep
			s.asked++
			s.flowFailedLocked(err)
			return done + 1
		}
	}
	s.sentLocked()
	return done
}

// sendLocked sends datagrams. fresh says that all that was sent on the socket
// before has its answer: an error is a late word on some of that then, and the
// first datagram is still to be sent.
func (s *session) sendLocked(datagrams [][]byte, fresh bool) (sent int, err error) {
	f := s.flow
	if s.relay.opts.ProxyProtocol == ProxyProtocolV2 {
		datagrams = s.introduceLocked(f, datagrams)
	}
	sent, err = f.socket.Send(datagrams)
	if err != nil && sent == 0 && fresh && !dgram.DatagramRejected(err) {
		sent, err = f.socket.Send(datagrams)
	}
	if sent > 0 && !f.introduced {
		f.introduced = true // and not again: the way down reads what lies beside it
	}
	return sent, err
}

// introduceLocked puts the PROXY protocol's header in front of a socket's first
// datagram, or of each.
func (s *session) introduceLocked(f *flow, datagrams [][]byte) [][]byte {
	every := s.relay.opts.ProxyProtocolEvery
	if f.introduced && !every {
		return datagrams
	}
	more := s.moreLocked()
	if more.header == nil {
		more.header = s.relay.opts.ProxyProtocol.datagramHeader(s.key)
	}
	introduced := slices.Clone(datagrams)
	for i, datagram := range datagrams {
		introduced[i] = slices.Concat(more.header, datagram)
		if !every {
			break
		}
	}
	return introduced
}

// sentLocked ends the wait for an answer if nothing was sent.
func (s *session) sentLocked() {
	if len(s.backlog.datagrams) == 0 {
		s.settledLocked() // nobody can answer what was not sent
	}
}
