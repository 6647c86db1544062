package module

import (
	"strings"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// series is one of a metric's: what is shown as one line, or as one histogram.
type series struct {
	of     name
	labels [mostLabels]string // the values of the metric's labels, in their order
}

func seriesOf(of name, labels ...string) series {
	key := series{of: of}
	copy(key.labels[:], labels)
	return key
}

func (s *series) values() []string { return s.labels[:len(metrics[s.of].labels)] }

// figures are the value of a counter, or what connectFigures makes of a
// histogram. None of them ever falls while what counts is there.
type figures []uint64

// connectFigures are those of a histogram: the count of each bucket, of the
// rest, and the sum in nanoseconds.
func connectFigures(c handler.Connects) figures {
	return append(append(make(figures, 0, len(c.Counts)+1), c.Counts[:]...), uint64(c.Sum))
}

// reading is what a service has counted, and how it is, at one moment.
type reading struct {
	counters map[series]figures
	gauges   map[series]float64
}

// read takes the service's metrics, for the ledger alone.
func (s *service) read(now time.Time) reading {
	r := reading{counters: make(map[series]figures), gauges: make(map[series]float64)}
	stats := s.Settle(now)
	service := label(s.Name)
	searching := stats.Active
	for i := range stats.Backends {
		b := &stats.Backends[i]
		backend := label(b.Backend.Text)
		for n := range b.Use {
			r.used(&b.Use[n], service, upstream.Network(n), backend)
			searching[n] -= b.Use[n].Active
		}
		if b.Position >= 0 {
			r.queued(&b.Status, service, backend, s.current.Load() != nil)
		}
	}
	for n, refused := range stats.Refused {
		network := upstream.Network(n).String()
		// Who found a backend between one look and the other is in both.
		r.gauges[seriesOf(connectionsActive, service, network, "")] = float64(max(0, searching[n]))
		for reason, count := range refused {
			r.counted(count, refusedTotal, service, network, string(reason))
		}
	}
	for reason, count := range stats.Dropped {
		r.counted(count, droppedDatagramsTotal, service, string(reason))
	}
	r.counted(stats.Evicted, udpSessionsEvictedTotal, service)
	return r
}

// used takes what a backend has done on a network.
func (r *reading) used(use *handler.Use, service string, network upstream.Network, backend string) {
	n := network.String()
	r.gauges[seriesOf(connectionsActive, service, n, backend)] = float64(use.Active)
	r.counted(use.Connections, connectionsTotal, service, n, backend)
	r.counted(use.BytesUp, bytesTotal, service, n, backend, "up")
	r.counted(use.BytesDown, bytesTotal, service, n, backend, "down")
	if network == upstream.UDP {
		r.counted(use.DatagramsUp, datagramsTotal, service, n, backend, "up")
		r.counted(use.DatagramsDown, datagramsTotal, service, n, backend, "down")
	}
	r.counters[seriesOf(connectDuration, service, n, backend)] = connectFigures(use.Connects)
}

// queued takes how a backend stands in the queue, which is shown while the
// queue is in force, and what the queue has counted.
func (r *reading) queued(b *upstream.Status, service, backend string, inForce bool) {
	for n, status := range b.Networks {
		network := upstream.Network(n).String()
		r.counted(status.Failed, failuresTotal, service, network, backend)
		r.counted(status.Demotions, demotionsTotal, service, network, backend)
		if inForce {
			up := 1.0
			if status.State == upstream.Down || status.State == upstream.Cooling {
				up = 0
			}
			r.gauges[seriesOf(backendUp, service, network, backend)] = up
		}
	}
	if inForce {
		r.gauges[seriesOf(backendPosition, service, backend)] = float64(b.Position + 1)
	}
}

func (r *reading) counted(value uint64, of name, labels ...string) {
	r.counters[seriesOf(of, labels...)] = figures{value}
}

// label is a text as the value of a label, which Prometheus wants in UTF-8.
func label(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
