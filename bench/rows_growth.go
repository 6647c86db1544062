//go:build linux

package main

import "fmt"

// mostRelays is a number of TCP relays, each with two descriptors, that a limit of
// 20,000 allows. The relay refuses more from the backends' own machine: they could be a
// loop.
const mostRelays = 8000

// growthRows are about the cost of the same work among more connections, sessions
// and services.
func growthRows() []row {
	var rows []row
	for _, count := range []int{10, 100, 1000, mostRelays} {
		r := row{name: fmt.Sprintf("TCP ping-pong, 64 B, %s connections", whole(count)), network: "tcp", backends: tcpEcho,
			job: job{Kind: "ping-pong", Count: count, Size: 64}, metrics: roundTrips()}
		if count >= manyRelays {
			r.files, r.metrics = uint64(2*count+500), append(r.metrics, single("memory", "KiB RSS per active connection", true))
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
