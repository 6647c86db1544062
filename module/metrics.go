package module

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/version"
	"github.com/async-relay/caddy-relay/resolver"
)

// metric is an index in metrics.
type metric uint8

const (
	connectionsActive metric = iota
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
	udpSessionsLimit
	logLinesDroppedTotal
	icmpErrorsIgnoredTotal
	hedgedAttemptsTotal
	rescuedTotal
	connectionsHeld
	drillActive
	backendSuspect
	fleetNodes
	fleetStorageFailing
	buildInfo
)

// namePrefix begins the name of every metric.
const namePrefix = "caddy_layer4_relay_"

// maxLabels is the largest number of labels of a metric.
const maxLabels = 4

// metrics describes the metrics that are scraped.
var metrics = [...]struct {
	name, help string
	labels     []string
}{
	connectionsActive: {
		"connections_active", "Active TCP relays and UDP sessions. An empty backend label means that they have not connected to a backend yet.",
		[]string{"service", "network", "backend"},
	},
	connectionsTotal: {
		"connections_total", "TCP connections established to the backend, and UDP sessions that it answered or that ended without any answer.",
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
		"connect_duration_seconds", "Time to connect to the backend, including the lookup. On UDP: time to its first answer.",
		[]string{"service", "network", "backend"},
	},
	failuresTotal: {
		"failures_total", "Failed attempts, by: client or check, whether they counted as strikes or not; local (no route, out of ports: of this machine, never strikes).",
		[]string{"service", "network", "backend", "by"},
	},
	demotionsTotal: {
		"demotions_total", "Second strikes. Each one marks the backend as down and moves it to the end of the queue.",
		[]string{"service", "network", "backend"},
	},
	refusedTotal: {
		"refused_total", "Refused clients, by reason: no_backend, max_connections, max_connections_per_ip, denied (by allow or deny; on UDP: datagrams).",
		[]string{"service", "network", "reason"},
	},
	droppedDatagramsTotal: {
		"dropped_datagrams_total", "Dropped datagrams, by reason: queue_full, backlog_limit, refused, or listener (the buffer of the listening socket was full; no service label).",
		[]string{"service", "reason"},
	},
	backendUp: {
		"backend_up", "0 while the backend is down or cooling, otherwise 1.",
		[]string{"service", "network", "backend"},
	},
	backendPosition: {
		"backend_position", "Position of the backend in the queue. 1 is tried first.",
		[]string{"service", "backend"},
	},
	dnsLookupsTotal: {
		"dns_lookups_total", "DNS queries, by result: ok, stale (the query failed, the old addresses stay in use) or failed (the query failed, there are no addresses). Cache hits are not counted.",
		[]string{"result"},
	},
	udpSessionsEvictedTotal: {
		"udp_sessions_evicted_total", "UDP sessions that were ended to make room for others.",
		[]string{"service"},
	},
	udpSessionsLimit: {
		"udp_sessions_limit", "The most UDP sessions that all services together may have.",
		nil,
	},
	logLinesDroppedTotal: {
		"log_lines_dropped_total", "Lines that a log did not get because it was not read, or too slowly.",
		nil,
	},
	icmpErrorsIgnoredTotal: {
		"icmp_errors_ignored_total", "ICMP errors, such as port unreachable, that came from a host other than the backend and were ignored.",
		[]string{"service"},
	},
	hedgedAttemptsTotal: {
		"hedged_attempts_total", "TCP attempts that were started in parallel with a slow one.",
		[]string{"service"},
	},
	rescuedTotal: {
		"rescued_total", "TCP clients that were served after a backend had accepted their connection and failed before its first byte.",
		[]string{"service"},
	},
	connectionsHeld: {
		"connections_held", "Clients that wait for a backend to recover, or for the end of an operator's hold.",
		[]string{"service"},
	},
	drillActive: {
		"drill_active", "1 while a drill injects faults into new relays to the backend, otherwise 0.",
		[]string{"service", "backend"},
	},
	backendSuspect: {
		"backend_suspect", "1 while another node of the fleet has demoted the backend and this one has not tried it since, otherwise 0.",
		[]string{"service", "network", "backend"},
	},
	fleetNodes: {
		"fleet_nodes", "Other nodes of the fleet, by state: alive or vanished (the record of the node does not change any more). 0 without share.",
		[]string{"state"},
	},
	fleetStorageFailing: {
		"fleet_storage_failing", "1 while this node continues alone, because the storage of its fleet fails, otherwise 0.",
		nil,
	},
	buildInfo: {
		"build_info", "Always 1. The labels have the versions of the relay, Caddy, caddy-l4 and Go that this program is built with.",
		[]string{"version", "caddy", "caddy_l4", "goversion"},
	},
}

// collected is the collector of the process. All configs share it, and it reads
// the state that they share, so that counters continue over a reload.
var collected = newCollector()

// registerMetrics registers the collector in the registry of a config. It may be
// called more than once for a config.
func registerMetrics(ctx caddy.Context) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil // the context belongs to a module within a config
	}
	err := registry.Register(collected)
	if already := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &already) {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// collector exports the metrics of all services to Prometheus.
type collector struct {
	descs   [len(metrics)]*prometheus.Desc // set once
	lookups resolver.Counts                // of all DNS caches
	ledger  *ledger                        // set once
	build   version.Versions               // set once
}

func newCollector() *collector {
	c := &collector{ledger: newLedger(), build: version.Get()}
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

// Collect implements prometheus.Collector. It exports the services that the
// current config has, and removed ones with active relays. It exports the state
// of backends only for services that the current config has.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counters, gauges := c.ledger.totalsAndGauges(time.Now())
	for key, value := range gauges {
		ch <- prometheus.MustNewConstMetric(c.descs[key.metric], prometheus.GaugeValue, value, key.values()...)
	}
	for key, f := range counters {
		switch {
		case key.metric != connectDuration:
			ch <- c.counter(f[0], key)
		case slices.Max(f) > 0: // an empty histogram has many lines, and a service often has one network only
			ch <- c.histogram(f, key)
		}
	}
	ch <- prometheus.MustNewConstMetric(c.descs[udpSessionsLimit], prometheus.GaugeValue, float64(sessionBudget.Limit()))
	ch <- c.counter(sockets.Dropped(), newSeries(droppedDatagramsTotal, "", "listener"))
	ch <- c.counter(c.lookups.OK.Load(), newSeries(dnsLookupsTotal, "ok"))
	ch <- c.counter(c.lookups.Stale.Load(), newSeries(dnsLookupsTotal, "stale"))
	ch <- c.counter(c.lookups.Failed.Load(), newSeries(dnsLookupsTotal, "failed"))
	ch <- c.counter(logs.Dropped(), newSeries(logLinesDroppedTotal))
	c.collectFleet(ch)
	ch <- prometheus.MustNewConstMetric(c.descs[buildInfo], prometheus.GaugeValue, 1, c.build.Relay, c.build.Caddy, c.build.CaddyL4, c.build.Go)
}

// collectFleet exports the metrics of the fleet.
func (c *collector) collectFleet(ch chan<- prometheus.Metric) {
	var alive, vanished, failing float64
	if member := membership.member.Load(); member != nil {
		status := member.Status()
		for _, p := range status.Peers {
			if p.Vanished {
				vanished++
			} else {
				alive++
			}
		}
		if status.Failing != nil {
			failing = 1
		}
	}
	ch <- prometheus.MustNewConstMetric(c.descs[fleetNodes], prometheus.GaugeValue, alive, "alive")
	ch <- prometheus.MustNewConstMetric(c.descs[fleetNodes], prometheus.GaugeValue, vanished, "vanished")
	ch <- prometheus.MustNewConstMetric(c.descs[fleetStorageFailing], prometheus.GaugeValue, failing)
}

func (c *collector) counter(value uint64, key series) prometheus.Metric {
	return prometheus.MustNewConstMetric(c.descs[key.metric], prometheus.CounterValue, float64(value), key.values()...)
}

// histogram exports the figures that connectFigures returns.
func (c *collector) histogram(f figures, key series) prometheus.Metric {
	buckets := make(map[float64]uint64, len(handler.ConnectBuckets))
	var count uint64
	for i, bound := range handler.ConnectBuckets {
		count += f[i]
		buckets[bound] = count
	}
	count += f[len(handler.ConnectBuckets)]
	sum := time.Duration(f[len(handler.ConnectBuckets)+1]).Seconds()
	return prometheus.MustNewConstHistogram(c.descs[key.metric], count, sum, buckets, key.values()...)
}

// adminMetrics registers the metrics when Caddy provisions the admin API. It has
// no routes. It is needed after a rejected reload: /metrics then uses the
// registry of the rejected config, in which the app relay may not have been
// provisioned.
type adminMetrics struct{}

// CaddyModule returns the Caddy module information.
func (adminMetrics) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.relay_metrics",
		New: func() caddy.Module { return new(adminMetrics) },
	}
}

// Provision implements caddy.Provisioner. Caddy calls it for each config with an
// admin endpoint, before it starts the apps.
func (adminMetrics) Provision(ctx caddy.Context) error {
	addConfig(ctx)
	return registerMetrics(ctx)
}

// Routes implements caddy.AdminRouter.
func (adminMetrics) Routes() []caddy.AdminRoute { return nil }

// Interface guards.
var (
	_ prometheus.Collector = (*collector)(nil)
	_ caddy.Provisioner    = (*adminMetrics)(nil)
	_ caddy.AdminRouter    = (*adminMetrics)(nil)
)
