package module

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/resolver"
)

// name is a metric in metrics.
type name uint8

const (
	connectionsActive name = iota
	connectionsTotal
	bytesTotal
	datagramsTotal
	connectDuration
	failuresTotal
	demotionsTotal
	refusedTotal
	droppedDatagramsTotal
	backendUp
	backendPosition
	dnsLookupsTotal
	udpSessionsEvictedTotal
)

// namePrefix is what all metrics begin with.
const namePrefix = "caddy_layer4_relay_"

// mostLabels is how many labels a metric has at most.
const mostLabels = 4

// metrics are what is scraped, in their names' order.
var metrics = [...]struct {
	name, help string
	labels     []string
}{
	connectionsActive: {
		"connections_active", "TCP relays and UDP sessions at work. Those without a backend are still looking for one.",
		[]string{"service", "network", "backend"},
	},
	connectionsTotal: {
		"connections_total", "TCP connections made to the backend, and UDP sockets opened to it.",
		[]string{"service", "network", "backend"},
	},
	bytesTotal: {
		"bytes_total", "Bytes relayed: up is from clients to the backend, down from the backend to clients.",
		[]string{"service", "network", "backend", "direction"},
	},
	datagramsTotal: {
		"datagrams_total", "Datagrams relayed, by direction as in bytes_total.",
		[]string{"service", "network", "backend", "direction"},
	},
	connectDuration: {
		"connect_duration_seconds", "How long a connection to the backend took, its lookup included; on UDP, its first answer.",
		[]string{"service", "network", "backend"},
	},
	failuresTotal: {
		"failures_total", "Attempts of clients and health checks that failed, counted as strikes or not.",
		[]string{"service", "network", "backend"},
	},
	demotionsTotal: {
		"demotions_total", "Second strikes: the backend went down and to the end of the queue.",
		[]string{"service", "network", "backend"},
	},
	refusedTotal: {
		"refused_total", "Clients that were not served, by reason: no_backend, max_connections, max_connections_per_ip.",
		[]string{"service", "network", "reason"},
	},
	droppedDatagramsTotal: {
		"dropped_datagrams_total", "Datagrams dropped, by reason: queue_full, refused; listener, of no service, for those that a socket had no room for.",
		[]string{"service", "reason"},
	},
	backendUp: {
		"backend_up", "0 while the backend is down or cooling, else 1.",
		[]string{"service", "network", "backend"},
	},
	backendPosition: {
		"backend_position", "Place of the backend in the queue; 1 is tried first.",
		[]string{"service", "backend"},
	},
	dnsLookupsTotal: {
		"dns_lookups_total", "DNS queries by result: ok; stale, it failed and the old addresses stay; failed, there are none. Answers from the cache are no queries.",
		[]string{"result"},
	},
	udpSessionsEvictedTotal: {
		"udp_sessions_evicted_total", "UDP sessions that made room for others.",
		[]string{"service"},
	},
}

// collected are the metrics of the process. There is one for all configs, and it
// reads the state that they share, so that a reload is no break in any counter.
var collected = newCollector()

// registerMetrics has the config's registry show the metrics. It may be called
// more than once for a config.
func registerMetrics(ctx caddy.Context) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil // the context is of something within a config
	}
	err := registry.Register(collected)
	if already := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &already) {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// collector shows the services' metrics to Prometheus.
type collector struct {
	descs   [len(metrics)]*prometheus.Desc // set once
	lookups resolver.Counts                // of all DNS caches
	ledger  *ledger                        // set once
}

func newCollector() *collector {
	c := &collector{ledger: newLedger()}
	for i, m := range metrics {
		c.descs[i] = prometheus.NewDesc(namePrefix+m.name, m.help, m.labels, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It shows the services that a config
// has or that still have relays at work. The backends' state is shown as long
// as a config has them.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counters, gauges := c.ledger.balance(time.Now())
	for key, value := range gauges {
		ch <- prometheus.MustNewConstMetric(c.descs[key.of], prometheus.GaugeValue, value, key.values()...)
	}
	for key, f := range counters {
		switch {
		case key.of != connectDuration:
			ch <- c.counter(f[0], key)
		case slices.Max(f) > 0: // it is long, and a service often has one network
			ch <- c.histogram(f, key)
		}
	}
	ch <- c.counter(sockets.Dropped(), seriesOf(droppedDatagramsTotal, "", "listener"))
	ch <- c.counter(c.lookups.OK.Load(), seriesOf(dnsLookupsTotal, "ok"))
	ch <- c.counter(c.lookups.Stale.Load(), seriesOf(dnsLookupsTotal, "stale"))
	ch <- c.counter(c.lookups.Failed.Load(), seriesOf(dnsLookupsTotal, "failed"))
}

func (c *collector) counter(value uint64, key series) prometheus.Metric {
	return prometheus.MustNewConstMetric(c.descs[key.of], prometheus.CounterValue, float64(value), key.values()...)
}

// histogram shows the figures of connectFigures.
func (c *collector) histogram(f figures, key series) prometheus.Metric {
	buckets := make(map[float64]uint64, len(handler.ConnectBuckets))
	var count uint64
	for i, bound := range handler.ConnectBuckets {
		count += f[i]
		buckets[bound] = count
	}
	count += f[len(handler.ConnectBuckets)]
	sum := time.Duration(f[len(handler.ConnectBuckets)+1]).Seconds()
	return prometheus.MustNewConstHistogram(c.descs[key.of], count, sum, buckets, key.values()...)
}

// adminMetrics has the metrics registered with the admin API, and has no routes.
// After a rejected reload the registry at /metrics is that of the rejected
// config, which may not have got as far as the app relay.
type adminMetrics struct{}

// CaddyModule returns the Caddy module information.
func (adminMetrics) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.relay_metrics",
		New: func() caddy.Module { return new(adminMetrics) },
	}
}

// Provision implements caddy.Provisioner.
func (adminMetrics) Provision(ctx caddy.Context) error { return registerMetrics(ctx) }

// Routes implements caddy.AdminRouter.
func (adminMetrics) Routes() []caddy.AdminRoute { return nil }

// Interface guards.
var (
	_ prometheus.Collector = (*collector)(nil)
	_ caddy.Provisioner    = (*adminMetrics)(nil)
	_ caddy.AdminRouter    = (*adminMetrics)(nil)
)
