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

// Totals counts the traffic since the service started.
type Totals struct {
	Connections   uint64 // TCP connections made; UDP sessions that it answered, or that ended without any answer
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

// Use counts what a backend serves on one network.
type Use struct {
	Active int // TCP relays or UDP sessions
	Totals
	Connects Connects // TCP: times to connect; UDP: times to the first answer
}

// BackendStats holds the status and the use of a backend. A backend that left the
// queue and still has active relays has Position -1.
type BackendStats struct {
	upstream.Status
	Use   [networks]Use
	Drill Fault // that a drill injects now; empty: none
}

// Departed holds the final counts of backends that left the queue and have no
// relays left, so that the totals of a service never decrease. Their failures
// and demotions are included from the moment they leave the queue.
type Departed struct {
	Totals
	upstream.Departed
}

// Refusal is the reason why a client was refused.
type Refusal string

// The refusals.
const (
	RefusedByBackends Refusal = "no_backend"             // every backend was tried
	RefusedTooMany    Refusal = "max_connections"        // the limit of the service
	RefusedTooManyIP  Refusal = "max_connections_per_ip" // the limit of the client's address
	RefusedDenied     Refusal = "denied"                 // the client's address, by allow or deny
)

// Drop is the reason why a datagram was dropped.
type Drop string

// The reasons of drops.
const (
	DroppedQueueFull    Drop = "queue_full"    // the queue of its session, which waits for a backend
	DroppedBacklogLimit Drop = "backlog_limit" // the oldest of all sessions, to keep the backlogs within their limit
	DroppedRefused      Drop = "refused"       // its client was refused less than a second ago, or the datagram could not be sent
)

// Stats holds the counts of a service at one moment.
type Stats struct {
	Backends  []BackendStats // in queue order
	Departed  [networks]Departed
	Active    [networks]int // relays and sessions, including those that search for a backend
	Refused   [networks]map[Refusal]uint64
	Dropped   map[Drop]uint64
	Exhausted uint64    // clients that found this machine out of descriptors, memory or ports
	Evicted   uint64    // sessions that were ended to make room for others
	Hedges    uint64    // TCP attempts that were started in parallel with a slow one
	Held      int       // clients that wait for a backend now; they are active, too
	HeldUntil time.Time // end of an operator's hold; zero: there is none
	Rescues   uint64    // TCP clients that were served after a backend had accepted and failed them
	Ignored   uint64    // ICMP errors that came from a host other than the backend and were ignored
}

// tally holds the counters of a backend on one network.
type tally struct {
	active      atomic.Int64
	connections atomic.Uint64
	connects    latency

	// Each direction has a cache line of its own, because two CPUs usually count.
	_                        [64]byte
	bytesUp, datagramsUp     atomic.Uint64
	_                        [64]byte
	bytesDown, datagramsDown atomic.Uint64
	_                        [64]byte
}

// tallies holds the tallies of a service's backends. Settle removes those of a
// backend that has left the queue and ended its last relay.
type tallies struct {
	mu        sync.Mutex                  // guards the fields below
	byBackend map[string]*[networks]tally // by the backend as configured
	departed  [networks]Totals            // sum of the removed ones
}

// get returns the tally of a backend, and makes one if there is none.
func (t *tallies) get(b *upstream.Backend, n upstream.Network) *tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	both := t.byBackend[b.Text]
	if both == nil {
		if t.byBackend == nil {
			t.byBackend = make(map[string]*[networks]tally)
		}
		both = new([networks]tally)
		t.byBackend[b.Text] = both
	}
	return &both[n]
}

// enter counts a TCP relay that the backend serves, until leave.
func (t *tally) enter() {
	t.active.Add(1)
	t.connections.Add(1)
}

// leave counts the end of a relay.
func (t *tally) leave() { t.active.Add(-1) }

// use returns the counts.
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

// Stats returns the counts of the service and the status of its backends.
func (s *Service) Stats(now time.Time) Stats { return s.stats(now, false) }

// Settle is like Stats but also drops departed backends after listing them once,
// with their final counts. Only the metrics ledger may call it.
func (s *Service) Settle(now time.Time) Stats { return s.stats(now, true) }

func (s *Service) stats(now time.Time, settle bool) Stats {
	var stats Stats
	stats.Active[upstream.TCP], stats.Active[upstream.UDP] = s.Active()
	stats.Refused[upstream.TCP] = map[Refusal]uint64{
		RefusedByBackends: s.floods.total(refusedTCP),
		RefusedTooMany:    s.floods.total(limitTCP),
		RefusedTooManyIP:  s.floods.total(perIPLimitTCP),
		RefusedDenied:     s.floods.total(deniedTCP),
	}
	stats.Refused[upstream.UDP] = map[Refusal]uint64{
		RefusedByBackends: s.floods.total(refusedUDP),
		RefusedTooMany:    s.floods.total(limitUDP),
		RefusedTooManyIP:  s.floods.total(perIPLimitUDP),
		RefusedDenied:     s.floods.total(deniedUDP),
	}
	stats.Dropped = map[Drop]uint64{
		DroppedQueueFull:    s.floods.total(queueFull),
		DroppedBacklogLimit: s.floods.total(backlogsFull),
		DroppedRefused:      s.floods.total(dropped),
	}
	stats.Exhausted, stats.Evicted = s.floods.total(exhausted), s.floods.total(evicted)
	stats.Held, stats.HeldUntil = s.Held(), s.HeldUntil()
	stats.Hedges, stats.Rescues = s.hedges.Load(), s.rescues.Load()
	stats.Ignored = s.floods.total(icmpIgnored)

	s.listBackends(&stats, now, settle)
	for n := range networks {
		stats.Departed[n].Departed = s.Pool.Departed(n)
	}
	return stats
}

// listBackends adds the backends to stats: those in the queue, then the others by
// name.
func (s *Service) listBackends(stats *Stats, now time.Time, settle bool) {
	s.tallies.mu.Lock()
	defer s.tallies.mu.Unlock()
	listed := make(map[string]bool)
	for _, status := range s.Pool.Snapshot(now) {
		b := BackendStats{Status: status}
		if drill := s.drills.of(status.Backend); drill != nil {
			b.Drill = drill.fault
		}
		listed[status.Backend.Text] = true
		if both := s.tallies.byBackend[status.Backend.Text]; both != nil {
			for n := range both {
				b.Use[n] = both[n].use(now)
			}
		}
		stats.Backends = append(stats.Backends, b)
	}
	for n, totals := range s.tallies.departed {
		stats.Departed[n].Totals = totals
	}
	var notQueued []BackendStats // no longer in the queue
	for text, both := range s.tallies.byBackend {
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
				stats.Departed[n].add(b.Use[n].Totals)
			}
			if !settle {
				continue
			}
			delete(s.tallies.byBackend, text)
		}
		notQueued = append(notQueued, b)
	}
	if settle {
		for n := range stats.Departed {
			s.tallies.departed[n] = stats.Departed[n].Totals
		}
	}
	slices.SortFunc(notQueued, func(a, b BackendStats) int { return strings.Compare(a.Backend.Text, b.Backend.Text) })
	stats.Backends = append(stats.Backends, notQueued...)
}
