// Package handler contains the failover rules: it dials the backends of a
// service in the order of package upstream until one serves the client, and
// records what happened. It knows sockets and names, and nothing of Caddy. It
// makes no system calls: bytes are moved by internal/stream, datagrams by
// internal/dgram, and names are resolved by a [Resolver].
//
//	Service  the state that outlives a change of settings: the queue, the journal, the UDP sessions, the counters
//	Relay    a service with the settings of one configuration; clients are handed to it
//
// A TCP client is a call of [Relay.ServeTCP] or [Relay.StartTCP]. Its attempts are
// made by a mover's event loop or by the attempt loop (attempt.go), and its bytes
// move until the relay ends as the table in package stream says.
//
// A UDP client is a session. The first datagrams given to [Relay.Deliver] create
// it, and it ends when no datagram has passed for the idle timeout. A [Replier] is
// the way back to its client, and a dgram.Socket leads to its backend.
//
// The package is part of caddy-relay and promises no API to other modules.
package handler
