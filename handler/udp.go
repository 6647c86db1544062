package handler

import (
	"net/netip"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/upstream"
)

// Key identifies a UDP session by the client's address and the local address
// that the client sends to.
type Key struct {
	Client netip.AddrPort
	Local  netip.AddrPort
}

// Replier sends datagrams to a UDP client. Each kind of listener has its own.
// Repliers are compared with ==.
type Replier interface {
	// Reply sends datagrams to the client, in order. It keeps no slice. If one
	// of them cannot be sent, the others are sent all the same.
	Reply(datagrams [][]byte) error
	// Release reports that the session does not use this Replier any more,
	// because another one was delivered or the session has ended. It is called
	// once for each session that took the Replier, after the last Reply has
	// returned and without any lock held.
	Release()
}

// Deliver passes datagrams of a client, in order, to the client's session, and
// starts a session if there is none. It keeps no slice, and waits neither for a
// lookup nor for a backend. The session sends its answers to client from now on.
// Deliver returns the session, for the client's next datagrams; it is zero if
// the client was refused. It returns false, and does nothing, if the client has no
// session and the relay was retired.
func (r *Relay) Deliver(key Key, datagrams [][]byte, client Replier) (latest Session, taken bool) {
	for {
		s, refusal, err := r.service.sessions.get(key, r)
		if err != nil {
			return Session{}, false
		}
		if s == nil {
			r.refuseUDP(key, refusal)
			client.Release()
			return Session{}, true
		}
		if s.deliver(datagrams, client) {
			return Session{s}, true
		}
		// The session has ended since: the datagrams start the next one.
	}
}

// Session is a UDP session that the caller of [Relay.Deliver] keeps, so that the
// client's next datagrams need no search by key. The zero Session has ended.
type Session struct{ session *session }

// Deliver is [Relay.Deliver] for a known session. It returns false, and does
// nothing, if the session has ended.
func (s Session) Deliver(datagrams [][]byte, client Replier) bool {
	return s.session != nil && s.session.deliver(datagrams, client)
}

// refuseUDP logs and counts a client that gets no session. The refusal is empty
// once the service is closed, which is not logged.
func (r *Relay) refuseUDP(key Key, refusal Refusal) {
	fields := []zap.Field{zap.Stringer("network", upstream.UDP), zap.Stringer("client", key.Client)}
	switch refusal {
	case RefusedTooMany:
		r.service.floods.note(r.log, limitUDP, fields...)
	case RefusedTooManyIP:
		r.service.floods.note(r.log, perIPLimitUDP, fields...)
	case RefusedDenied:
		r.service.floods.note(r.log, deniedUDP, fields...)
	}
}
