package handler

import (
	"net/netip"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// SavedCounts holds the counts of a service in a form that can be stored.
type SavedCounts struct {
	Backends []SavedBackend     `json:"backends,omitempty"`
	Departed [networks]SavedUse `json:"departed,omitzero"` // of backends that have left the queue; TCP, then UDP
	Events   map[string]uint64  `json:"events,omitempty"`  // see savedFloods
	Hedges   uint64             `json:"hedges,omitempty"`
	Rescues  uint64             `json:"rescues,omitempty"`
}

// SavedBackend holds the counts of one backend.
type SavedBackend struct {
	Backend string   `json:"backend"` // as configured
	TCP     SavedUse `json:"tcp,omitzero"`
	UDP     SavedUse `json:"udp,omitzero"`
}

// on returns the counts on a network.
func (s *SavedBackend) on(n upstream.Network) *SavedUse {
	if n == upstream.UDP {
		return &s.UDP
	}
	return &s.TCP
}

// SavedUse holds the counts of a backend on one network.
type SavedUse struct {
	Connections   uint64 `json:"connections,omitempty"`
	BytesUp       uint64 `json:"bytes_up,omitempty"`
	BytesDown     uint64 `json:"bytes_down,omitempty"`
	DatagramsUp   uint64 `json:"datagrams_up,omitempty"`
	DatagramsDown uint64 `json:"datagrams_down,omitempty"`

	Connects   []uint64      `json:"connects,omitempty"` // as Connects.Counts; empty: none
	ConnectSum time.Duration `json:"connect_ns,omitempty"`

	Succeeded    uint64        `json:"succeeded,omitempty"`
	Failed       uint64        `json:"failed,omitempty"`
	FailedChecks uint64        `json:"failed_checks,omitempty"`
	FailedLocal  uint64        `json:"failed_local,omitempty"`
	Demotions    uint64        `json:"demotions,omitempty"`
	LastFailure  *SavedFailure `json:"last_failure,omitempty"`
}

// SavedFailure is an [upstream.Failure].
type SavedFailure struct {
	At      time.Time      `json:"at"`
	Error   string         `json:"error"`
	Address netip.AddrPort `json:"address,omitzero"`
}

// savedFloods are the events whose counts are stored, by name: those that Stats has.
var savedFloods = map[string]flood{
	"refused_tcp": refusedTCP, "refused_udp": refusedUDP,
	"refused_limit_tcp": limitTCP, "refused_limit_udp": limitUDP,
	"refused_limit_per_ip_tcp": perIPLimitTCP, "refused_limit_per_ip_udp": perIPLimitUDP,
	"denied_tcp": deniedTCP, "denied_udp": deniedUDP,
	"dropped_queue_full": queueFull, "dropped_backlog_limit": backlogsFull, "dropped_refused": dropped,
	"exhausted": exhausted, "evicted": evicted, "icmp_ignored": icmpIgnored,
}

// SaveCounts returns the counts of the service.
func (s *Service) SaveCounts(now time.Time) SavedCounts {
	stats := s.Stats(now)
	saved := SavedCounts{Hedges: stats.Hedges, Rescues: stats.Rescues, Events: make(map[string]uint64)}
	for n := range networks {
		d := &stats.Departed[n]
		saved.Departed[n].addTotals(d.Totals)
		saved.Departed[n].addCounts(upstream.Counts{Failed: d.Failed, FailedChecks: d.FailedChecks, FailedLocal: d.FailedLocal, Demotions: d.Demotions})
	}
	for i := range stats.Backends {
		b := &stats.Backends[i]
		counts := SavedBackend{Backend: b.Backend.Text}
		for n := range networks {
			use := counts.on(n)
			if b.Position < 0 {
				use = &saved.Departed[n] // another process does not have its relays
			} else {
				use.addCounts(b.Networks[n].Counts())
				use.addConnects(b.Use[n].Connects)
			}
			use.addTotals(b.Use[n].Totals)
		}
		if b.Position >= 0 && !counts.zero() {
			saved.Backends = append(saved.Backends, counts)
		}
	}
	for name, kind := range savedFloods {
		if count := s.floods.total(kind); count > 0 {
			saved.Events[name] = count
		}
	}
	return saved
}

// zero reports whether nothing was counted.
func (s *SavedBackend) zero() bool { return s.TCP.zero() && s.UDP.zero() }

func (u *SavedUse) zero() bool {
	return u.totals() == Totals{} && u.Connects == nil && u.counts() == upstream.Counts{}
}

func (u *SavedUse) totals() Totals {
	return Totals{u.Connections, u.BytesUp, u.BytesDown, u.DatagramsUp, u.DatagramsDown}
}

func (u *SavedUse) addTotals(t Totals) {
	u.Connections += t.Connections
	u.BytesUp += t.BytesUp
	u.BytesDown += t.BytesDown
	u.DatagramsUp += t.DatagramsUp
	u.DatagramsDown += t.DatagramsDown
}

func (u *SavedUse) addConnects(c Connects) {
	if c.Counts != (Connects{}).Counts {
		u.Connects, u.ConnectSum = c.Counts[:], c.Sum
	}
}

func (u *SavedUse) counts() upstream.Counts {
	c := upstream.Counts{Succeeded: u.Succeeded, Failed: u.Failed, FailedChecks: u.FailedChecks, FailedLocal: u.FailedLocal, Demotions: u.Demotions}
	if u.LastFailure != nil {
		c.LastFailure = upstream.Failure(*u.LastFailure)
	}
	return c
}

func (u *SavedUse) addCounts(c upstream.Counts) {
	u.Succeeded += c.Succeeded
	u.Failed += c.Failed
	u.FailedChecks += c.FailedChecks
	u.FailedLocal += c.FailedLocal
	u.Demotions += c.Demotions
	if c.LastFailure != (upstream.Failure{}) {
		failure := SavedFailure(c.LastFailure)
		failure.At = failure.At.Round(0)
		u.LastFailure = &failure
	}
}

// AddCounts adds the counts of an earlier process. Those of backends that are not in
// the queue count as departed.
func (s *Service) AddCounts(saved SavedCounts) {
	for i := range saved.Backends {
		counts := &saved.Backends[i]
		b := s.Pool.Backend(counts.Backend)
		for n := range networks {
			use := counts.on(n)
			if b == nil {
				s.addDeparted(n, use)
				continue
			}
			if c := use.counts(); c != (upstream.Counts{}) {
				s.Pool.AddCounts(b, n, c)
			}
			if use.totals() != (Totals{}) || use.Connects != nil {
				s.tallies.get(b, n).addSaved(use)
			}
		}
	}
	for n := range networks {
		s.addDeparted(n, &saved.Departed[n])
	}
	for name, count := range saved.Events {
		if kind, known := savedFloods[name]; known {
			s.floods[kind].Add(count)
		}
	}
	s.hedges.Add(saved.Hedges)
	s.rescues.Add(saved.Rescues)
}

// addDeparted adds the counts of a backend that is not in the queue.
func (s *Service) addDeparted(n upstream.Network, use *SavedUse) {
	s.Pool.AddDeparted(n, upstream.Departed{Failed: use.Failed, FailedChecks: use.FailedChecks, FailedLocal: use.FailedLocal, Demotions: use.Demotions})
	s.tallies.mu.Lock()
	defer s.tallies.mu.Unlock()
	s.tallies.departed[n].add(use.totals())
}

// addSaved adds the counts of an earlier process.
func (t *tally) addSaved(use *SavedUse) {
	t.connections.Add(use.Connections)
	t.bytesUp.Add(use.BytesUp)
	t.bytesDown.Add(use.BytesDown)
	t.datagramsUp.Add(use.DatagramsUp)
	t.datagramsDown.Add(use.DatagramsDown)
	t.connects.mu.Lock()
	defer t.connects.mu.Unlock()
	if len(use.Connects) == len(t.connects.counts) { // else of a version with other buckets
		for i, count := range use.Connects {
			t.connects.counts[i] += count
		}
		t.connects.sum += use.ConnectSum
	}
}
