package module

import (
	"slices"
	"strings"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// series identifies one series of a metric: one exported value, or one histogram.
type series struct {
	metric metric
	labels [maxLabels]string // the values of the metric's labels, in their order
}

func newSeries(m metric, labels ...string) series {
	key := series{metric: m}
	copy(key.labels[:], labels)
	return key
}

func (s *series) values() []string { return s.labels[:len(metrics[s.metric].labels)] }

// figures holds the value of a counter, or the figures of a histogram (see
// connectFigures). No figure falls as long as its backend exists.
type figures []uint64

// figures returns the number of figures of a series of the metric.
func (m metric) figures() int {
	if m == connectDuration {
		return len(handler.Connects{}.Counts) + 1
	}
	return 1
}

// zero reports whether all figures are zero.
func (f figures) zero() bool { return slices.Max(f) == 0 }

// connectFigures returns the figures of a histogram: the count of each bucket,
// the count above the last bucket, and the sum in nanoseconds.
func connectFigures(c handler.Connects) figures {
	return append(append(make(figures, 0, len(c.Counts)+1), c.Counts[:]...), uint64(c.Sum))
}

// readingOf selects what a reading contains.
type readingOf bool

const (
	onlyAboveZero readingOf = false // the counters above zero, no gauges
	all           readingOf = true
)

// reading holds the counters and gauges of a service at one moment.
type reading struct {
	of       readingOf
	counters map[series]figures
	gauges   map[series]float64
}

// readMetrics reads the metrics of the service. Only the ledger may call it (see
// handler.Service.Settle).
func (s *service) readMetrics(now time.Time, of readingOf) reading {
	r := reading{of: of, counters: make(map[series]figures), gauges: make(map[series]float64)}
	stats := s.Settle(now)
	service := labelValue(s.Name)
	searching := stats.Active
	for i := range stats.Backends {
		b := &stats.Backends[i]
		backend := labelValue(b.Backend.Text)
		for n := range b.Use {
			r.addUse(&b.Use[n], service, upstream.Network(n), backend)
			searching[n] -= b.Use[n].Active
		}
		if b.Position >= 0 {
			r.addStatus(&b.Status, service, backend, s.current.Load() != nil)
			drilled := 0.0
			if b.Drill != "" {
				drilled = 1
			}
			r.addGauge(drilled, drillActive, service, backend)
		}
	}
	for n, refused := range stats.Refused {
		network := upstream.Network(n).String()
		// A client that connected while Settle ran may be counted twice, so the
		// difference can be negative.
		r.addGauge(float64(max(0, searching[n])), connectionsActive, service, network, "")
		for reason, count := range refused {
			r.addCounter(count, refusedTotal, service, network, string(reason))
		}
	}
	for reason, count := range stats.Dropped {
		r.addCounter(count, droppedDatagramsTotal, service, string(reason))
	}
	r.addCounter(stats.Evicted, udpSessionsEvictedTotal, service)
	r.addCounter(stats.Ignored, icmpErrorsIgnoredTotal, service)
	r.addCounter(stats.Hedges, hedgedAttemptsTotal, service)
	r.addGauge(float64(stats.Held), connectionsHeld, service)
	r.addCounter(stats.Rescues, rescuedTotal, service)
	return r
}

// addUse adds the use of a backend on a network.
func (r *reading) addUse(use *handler.Use, service string, network upstream.Network, backend string) {
	n := network.String()
	r.addGauge(float64(use.Active), connectionsActive, service, n, backend)
	r.addCounter(use.Connections, connectionsTotal, service, n, backend)
	r.addCounter(use.BytesUp, bytesTotal, service, n, backend, "up")
	r.addCounter(use.BytesDown, bytesTotal, service, n, backend, "down")
	if network == upstream.UDP {
		r.addCounter(use.DatagramsUp, datagramsTotal, service, n, backend, "up")
		r.addCounter(use.DatagramsDown, datagramsTotal, service, n, backend, "down")
	}
	if r.of == all || use.Connects != (handler.Connects{}) {
		r.counters[newSeries(connectDuration, service, n, backend)] = connectFigures(use.Connects)
	}
}

// addStatus adds the failures of a backend and, if the current config has the
// service, the backend's state and position.
func (r *reading) addStatus(b *upstream.Status, service, backend string, current bool) {
	for n, status := range b.Networks {
		network := upstream.Network(n).String()
		r.addCounter(status.Failed-status.FailedChecks, failuresTotal, service, network, backend, "client")
		r.addCounter(status.FailedChecks, failuresTotal, service, network, backend, "check")
		r.addCounter(status.FailedLocal, failuresTotal, service, network, backend, "local")
		r.addCounter(status.Demotions, demotionsTotal, service, network, backend)
		if current {
			up := 1.0
			if status.State == upstream.Down || status.State == upstream.Cooling {
				up = 0
			}
			r.addGauge(up, backendUp, service, network, backend)
			suspect := 0.0
			if status.Suspect {
				suspect = 1
			}
			r.addGauge(suspect, backendSuspect, service, network, backend)
		}
	}
	if current {
		r.addGauge(float64(b.Position+1), backendPosition, service, backend)
	}
}

func (r *reading) addCounter(value uint64, m metric, labels ...string) {
	if r.of == all || value > 0 {
		r.counters[newSeries(m, labels...)] = figures{value}
	}
}

func (r *reading) addGauge(value float64, m metric, labels ...string) {
	if r.of == all {
		r.gauges[newSeries(m, labels...)] = value
	}
}

// labelValue replaces invalid UTF-8, which Prometheus does not accept in a label.
func labelValue(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
