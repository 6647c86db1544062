package handler

import (
	"net/netip"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/upstream"
)

// Key tells UDP sessions apart: who sent, and to which of our addresses.
type Key struct {
	Client netip.AddrPort
	Local  netip.AddrPort
}

// Replier is a UDP client as its session sees it: the way back, whatever
// listener the client came in by. Repliers are compared with ==.
type Replier interface {
	// Reply sends datagrams to the client, in order. It keeps no slice. One
	// that cannot be sent keeps none of the others back.
	Reply(datagrams [][]byte) error
	// Release says that the session sends no more replies this way: another
	// Replier was delivered for it, or it has ended. It is called once for each
	// session that took the Replier, after its last Reply has returned and
	// without any lock held.
	Release()
}

// Deliver hands in datagrams of a client, in order, which begin a session if
// there is none. It keeps no slice, and waits neither for a lookup nor for a
// backend. client is the way back from now on. The session that took them is
// given back for the next ones, the zero one if there was no room.
func (r *Relay) Deliver(key Key, datagrams [][]byte, client Replier) Session {
	for {
		s, evictedOne, refusal := r.service.sessions.get(key, r)
		if evictedOne != nil {
			evictedOne.end(evictedForRoom)
		}
		if s == nil {
			r.turnAwayUDP(key, refusal)
			client.Release()
			return Session{}
		}
		if s.deliver(datagrams, client) {
			return Session{s}
		}
		// It ended just now: these datagrams begin the next one.
	}
}

// Session is a UDP client's, for those who need not look for it each time.
type Session struct{ session *session }

// Deliver is [Relay.Deliver] to a session that is known; false if it has ended.
func (s Session) Deliver(datagrams [][]byte, client Replier) bool {
	return s.session != nil && s.session.deliver(datagrams, client)
}

// turnAwayUDP tells of a client that gets no session. Once the service is
// closed there is nothing to tell.
func (r *Relay) turnAwayUDP(key Key, refusal Refusal) {
	fields := []zap.Field{zap.Stringer("network", upstream.UDP), zap.Stringer("client", key.Client)}
	switch refusal {
	case RefusedTooMany:
		r.service.floods.note(r.log, limitUDP, fields...)
	case RefusedTooManyIP:
		r.service.floods.note(r.log, perIPLimitUDP, fields...)
	}
}
