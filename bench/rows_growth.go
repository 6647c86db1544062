//go:build linux

package main

import "fmt"

// filesFor returns the least limit of descriptors with which the relay accepts a number
// of TCP clients from the backends' own machine. It refuses more, because they could be a
// loop: see docs/operations.md.
func filesFor(relays int) uint64 {
	const others = 500 // descriptors that are not those of clients and backends
	// A sixteenth of those for TCP relays must be free.
	forRelays := (uint64(2*relays+others)*16 + 14) / 15
	// In front of them are two reserves, each a sixteenth of the limit, and at most 1,024.
	return min((forRelays*8+6)/7, forRelays+2*1024)
}

// growthRows are about the cost of the same work among more connections, sessions
// and services.
func growthRows() []row {
	var rows []row
	for _, count := range []int{10, 100, 1000, 8000, 10_000} { // a limit of 20,000 descriptors allows 8,000
		r := row{name: fmt.Sprintf("TCP ping-pong, 64 B, %s connections", whole(count)), network: "tcp", backends: tcpEcho,
			job: job{Kind: "ping-pong", Count: count, Size: 64}, metrics: roundTrips()}
		if count >= manyRelays {
			r.files, r.metrics = filesFor(count), append(r.metrics, single("memory", "KiB RSS per active connection", true))
		}
		rows = append(rows, r)
	}
	for _, count := range []int{1, 10, 100, 1000, 10_000} {
		many := whole(count) + " clients"
		if count == 1 {
			many = "1 client"
		}
		r := row{name: "UDP ping-pong, 64 B, " + many, network: "udp", backends: udpEcho,
			job: job{Kind: "UDP ping-pong", Count: count, Size: 64}, metrics: roundTrips()}
		if count >= manyRelays {
			r.files, r.metrics = uint64(count+500), append(r.metrics, single("memory", "KiB RSS per active session", true))
		}
		rows = append(rows, r)
	}
	for _, count := range []int{10, 1000} {
		many := whole(count) + " services"
		rows = append(rows,
			row{name: "TCP ping-pong, 64 B, 64 connections to " + many, network: "tcp", backends: tcpEcho, services: count,
				job: job{Kind: "ping-pong", Count: 64, Size: 64}, metrics: roundTrips()},
			row{name: "UDP ping-pong, 64 B, 64 clients of " + many, network: "udp", backends: udpEcho, services: count,
				job: job{Kind: "UDP ping-pong", Count: 64, Size: 64}, metrics: roundTrips()})
	}
	for i := range rows {
		rows[i].group = "Growth"
	}
	return rows
}
