package handler

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// networks is the number of networks of a backend.
const networks = upstream.Network(len(upstream.Status{}.Networks))

// Totals are what has passed since the service began.
type Totals struct {
	Connections   uint64 // TCP connections made, UDP sockets opened for a session
	BytesUp       uint64 // from clients
	BytesDown     uint64 // to clients
	DatagramsUp   uint64
	DatagramsDown uint64
}

func (t *Totals) add(more Totals) {
	t.Connections += more.Connections
	t.BytesUp += more.BytesUp
	t.BytesDown += more.BytesDown
	t.DatagramsUp += more.DatagramsUp
	t.DatagramsDown += more.DatagramsDown
}

// Use is what a backend does and has done on one network.
type Use struct {
	Active int // relays or sessions that it serves
	Totals
	Connects Connects // TCP: how long connecting took; UDP: the first answer
}

// BackendStats is a backend as it stands in the queue, with its use. One that
// is no longer there but has relays at work has Position -1.
type BackendStats struct {
	upstream.Status
	Use [networks]Use
}

// Gone is what backends came to that left the queue and have no relays any
// more, so that the totals of a service never fall. Failures and demotions are
// in it once they left.
type Gone struct {
	Totals
	upstream.Departed
}

// Refusal is why a client was not served.
type Refusal string

// The refusals.
const (
	RefusedByBackends Refusal = "no_backend"             // all were tried
	RefusedTooMany    Refusal = "max_connections"        // of the service
	RefusedTooManyIP  Refusal = "max_connections_per_ip" // of the client
)

// Drop is why a datagram was dropped.
type Drop string

// The drops.
const (
	DroppedQueueFull Drop = "queue_full" // of its session, which waits for a backend
	DroppedRefused   Drop = "refused"    // its client was refused less than a second ago, or it cannot be sent
)

// Stats are a service at one moment.
type Stats struct {
	Backends  []BackendStats // in queue order
	Gone      [networks]Gone
	Active    [networks]int // relays and sessions, those in search of a backend included
	Refused   [networks]map[Refusal]uint64
	Dropped   map[Drop]uint64
	Exhausted uint64 // clients that met a lack of descriptors, memory or ports
	Evicted   uint64 // sessions that made room for others
}

// tally counts for a backend on one network.
type tally struct {
	active      atomic.Int64
	connections atomic.Uint64
	connects    latency

	// A cache line for each direction: two processors count at once.
	_                        [64]byte
	bytesUp, datagramsUp     atomic.Uint64
	_                        [64]byte
	bytesDown, datagramsDown atomic.Uint64
	_                        [64]byte
}

// tallies are those of a service, by backend as it is written in the
// configuration. Those of a backend that has left it go with its last relay.
type tallies struct {
	mu   sync.Mutex // guards what follows
	of   map[string]*[networks]tally
	gone [networks]Totals // of those that went
}

func (t *tallies) get(b *upstream.Backend, n upstream.Network) *tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	both := t.of[b.Text]
	if both == nil {
		if t.of == nil {
			t.of = make(map[string]*[networks]tally)
		}
		both = new([networks]tally)
		t.of[b.Text] = both
	}
	return &both[n]
}

// enter books that a relay is at work with the backend, until it leaves.
func (t *tally) enter() {
	t.active.Add(1)
	t.connections.Add(1)
}

func (t *tally) leave() { t.active.Add(-1) }

func (t *tally) use(now time.Time) Use {
	return Use{
		Active: int(t.active.Load()),
		Totals: Totals{
			Connections:   t.connections.Load(),
			BytesUp:       t.bytesUp.Load(),
			BytesDown:     t.bytesDown.Load(),
			DatagramsUp:   t.datagramsUp.Load(),
			DatagramsDown: t.datagramsDown.Load(),
		},
		Connects: t.connects.read(now),
	}
}

// Stats says how the service is at now.
func (s *Service) Stats(now time.Time) Stats { return s.stats(now, false) }

// Settle is Stats for whoever keeps books on backends: one that is gone is
// listed for a last time when its last relay has ended, with what that moved.
// It is forgotten then, so there can be but one who calls this.
func (s *Service) Settle(now time.Time) Stats { return s.stats(now, true) }

func (s *Service) stats(now time.Time, settle bool) Stats {
	var stats Stats
	stats.Active[upstream.TCP], stats.Active[upstream.UDP] = s.Active()
	stats.Refused[upstream.TCP] = map[Refusal]uint64{
		RefusedByBackends: s.floods.totalOf(refusedTCP),
		RefusedTooMany:    s.floods.totalOf(tooManyTCP),
		RefusedTooManyIP:  s.floods.totalOf(tooManyOfOneTCP),
	}
	stats.Refused[upstream.UDP] = map[Refusal]uint64{
		RefusedByBackends: s.floods.totalOf(refusedUDP),
		RefusedTooMany:    s.floods.totalOf(tooManyUDP),
		RefusedTooManyIP:  s.floods.totalOf(tooManyOfOneUDP),
	}
	stats.Dropped = map[Drop]uint64{
		DroppedQueueFull: s.floods.totalOf(queueFull),
		DroppedRefused:   s.floods.totalOf(dropped),
	}
	stats.Exhausted, stats.Evicted = s.floods.totalOf(lackOfOwn), s.floods.totalOf(evicted)

	s.listBackends(&stats, now, settle)
	for n := range stats.Gone {
		stats.Gone[n].Departed = s.Pool.Departed(upstream.Network(n))
	}
	return stats
}

func (s *Service) listBackends(stats *Stats, now time.Time, settle bool) {
	s.tallies.mu.Lock()
	defer s.tallies.mu.Unlock()
	listed := make(map[string]bool)
	for _, status := range s.Pool.Snapshot(now) {
		b := BackendStats{Status: status}
		listed[status.Backend.Text] = true
		if both := s.tallies.of[status.Backend.Text]; both != nil {
			for n := range both {
				b.Use[n] = both[n].use(now)
			}
		}
		stats.Backends = append(stats.Backends, b)
	}
	for n := range s.tallies.gone {
		stats.Gone[n].Totals = s.tallies.gone[n]
	}
	var gone []BackendStats
	for text, both := range s.tallies.of {
		if listed[text] {
			continue
		}
		b := BackendStats{Status: upstream.Status{Backend: &upstream.Backend{Address: upstream.Address{Text: text}}, Position: -1, Configured: -1}}
		active := 0
		for n := range both {
			b.Use[n] = both[n].use(now)
			active += b.Use[n].Active
		}
		if active == 0 {
			for n := range b.Use {
				stats.Gone[n].add(b.Use[n].Totals)
			}
			if !settle {
				continue
			}
			delete(s.tallies.of, text)
		}
		gone = append(gone, b)
	}
	if settle {
		for n := range stats.Gone {
			s.tallies.gone[n] = stats.Gone[n].Totals
		}
	}
	slices.SortFunc(gone, func(a, b BackendStats) int { return strings.Compare(a.Backend.Text, b.Backend.Text) })
	stats.Backends = append(stats.Backends, gone...)
}
