package handler

import (
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is what the logs report about TCP relays.

// note keeps the outcome of an attempt for the access log.
func (t *tcpRelay) note(o outcome) {
	if t.relay.logs(upstream.TCP) && !notMade(o.err) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.notesLocked().tried.add(o)
	}
}

// noteHeld keeps for the access log how long the client was held.
func (t *tcpRelay) noteHeld(d time.Duration) {
	if t.relay.logs(upstream.TCP) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.notesLocked().held += d
	}
}

// tcpNotes are what the access log reports about the search for a backend.
type tcpNotes struct {
	tried tried
	held  time.Duration
}

func (t *tcpRelay) notesLocked() *tcpNotes {
	if t.notes == nil {
		t.notes = new(tcpNotes)
	}
	return t.notes
}

// logEnd logs the end of a relay that had a backend.
func (t *tcpRelay) logEnd(end stream.End) {
	t.tally.leave()
	t.log(record{
		backend: t.backend.Text, address: t.address, dialled: t.dialled,
		bytesUp: end.BytesUp, bytesDown: end.BytesDown, why: end.Reason,
	})
	if line := t.relay.log.Check(zap.DebugLevel, "relay ended"); line != nil {
		line.Write(zap.Stringer("network", upstream.TCP),
			zap.Stringer("client", t.client),
			zap.String("backend", t.backend.Text),
			zap.Stringer("address", t.address),
			zap.Duration("duration", time.Since(t.beganAt())),
			zap.Int64("bytes_up", end.BytesUp),
			zap.Int64("bytes_down", end.BytesDown),
			zap.String("reason", string(end.Reason)))
	}
}

// logRefused logs the end of a client without a backend. It is a refusal only
// if neither the client nor an operator has ended the search.
func (t *tcpRelay) logRefused(reason stream.Reason, err error) {
	r, network := t.relay, zap.Stringer("network", upstream.TCP)
	if _, cut := err.(cutError); cut || err == nil {
		err = cutError{reason}
	}
	t.log(record{why: reason, err: err})
	if reason != stream.RefusedNoBackend {
		r.log.Debug("relay ended", network, zap.Stringer("client", t.client), zap.Duration("duration", time.Since(t.beganAt())), zap.String("reason", string(reason)), zap.Error(err))
		return
	}
	if dial.Class(err) == netio.Exhausted {
		r.service.floods.note(r.log, exhausted, network, zap.Error(err))
	}
	r.service.floods.note(r.log, refusedTCP, network, zap.Stringer("client", t.client), zap.Error(err))
}

// log writes the relay's line of the access log, if there is one.
func (t *tcpRelay) log(a record) {
	if t.relay.logs(upstream.TCP) {
		a.network, a.client, a.local, a.began = upstream.TCP, t.client, t.local, t.beganAt()
		t.mu.Lock() // an attempt of a relay that was cut may still end
		if t.notes != nil {
			a.tried, a.held = t.notes.tried, t.notes.held
		}
		t.mu.Unlock()
		t.relay.accessed(a)
	}
}
