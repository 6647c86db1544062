// Package fleet lets several instances of the relay, the nodes of a fleet, act as one
// through a storage that all of them reach. It knows neither Caddy nor pools.
//
// # What a node publishes
//
// Each node writes one [Record] under a key of its own, so writes never conflict and
// need no lock. The record has the backends that are down here, and the latest
// [Operation] of each kind, service and backend that the node knows, by whichever
// node. Operations are ordered by a Lamport clock and the node's id. So the last
// writer wins everywhere, without clocks that agree, and an operation outlives the
// node on which it was requested.
//
// # What a node makes of the records of others
//
// A [State] compares them with what it knows and returns [Action]s. A backend that
// another node found down becomes a suspect here, and nothing else: see
// upstream.Pool.Suspect. Operations are repeated here. An action is never published
// as an event of this node, so nothing echoes.
//
// # Time
//
// Records have no time of day. A node is alive while the sequence number of its
// record advances, by the clock of the reader. What ends at a time (a hold, a drill)
// is published as the time left.
//
// # Storage operations
//
// A [Member] polls one small key, which has the nodes that have changed last, and
// loads the records of these nodes. At every heartbeat it lists and loads all records,
// to see which nodes are alive.
package fleet
