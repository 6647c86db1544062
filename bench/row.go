package main

import "time"

// The names of groups of rows, where code depends on them.
const (
	failover = "Failover"
	loading  = "Loading"
)

// The names of targets that others are compared with. ours is the one that all are
// compared with.
const (
	ours     = "relay, relay+"
	portable = "relay, portable"
	proxy    = "caddy-l4 proxy"
	haproxy  = "haproxy splice"
	nginx    = "nginx tuned"
)

// object is JSON of a config.
type object = map[string]any

// row is one kind of work, on which all targets are measured.
type row struct {
	name       string
	group      string // the table that it is part of
	network    string // tcp, udp
	backends   string // a service of backend.go, or a case of failover.go
	responses  bool   // a UDP session ends after one answer
	full       bool   // the table of UDP sessions is full
	services   int    // number of services; 0 for one
	files      uint64 // descriptors that the relay needs, if more than usual
	oneCore    bool   // the target runs on one CPU, all else on another one
	congestion string // TCP's congestion control, in the bench's own network; "" for the default
	distant    bool   // the backend is at the other end of a slow path
	beside     *beside
	slow       bool   // -quick leaves it out
	relay      object // more options of the relay
	relayOnly  bool   // peers are not measured
	job        job
	metrics    []metric
}

// beside is another load that runs in parallel, on a service of its own.
type beside struct {
	backends string
	job      job
}

// job is the input of a load process.
type job struct {
	Kind    string
	Addr    string   // of the relay, or of the backend itself
	Addrs   []string // of all services; none if there is one
	Control string   // address of the backend's serveControl
	PIDs    []int    // of the relay; none if the load connects to the backend itself
	Backend int      // process id of the backend
	Count   int      // of streams, connections, clients or sessions
	AtATime int      // connections that are open at a time, of those that are opened in turn
	Fill    int      // sessions that are open before the measurement
	Size    int      // of a message
	Rate    int      // datagrams a second
	Window  time.Duration

	Backends []string      // those that the load kills
	Kills    int           // how often it kills one
	Gap      time.Duration // from the end of a killed backend to its next start
}
