package main

import "strings"

// goals returns the aims of all rows, in the order of the report.
func goals(rows []row) []aim {
	const (
		pingPong = "TCP ping-pong, 64 B, 64 connections"
		one      = "TCP ping-pong, 64 B, 1 connection"
		udp      = "UDP ping-pong, 64 B, 64 clients"
		connect  = "TCP connect, echo, close"
		full     = "UDP sessions, the table of 10,000 is full"
		filling  = "UDP sessions, the table fills to 10,000"
		up, down = "TCP bulk, client to backend, 16 streams", "TCP bulk, backend to client, 16 streams"
		stalled  = " together with 40 clients that stopped reading"
		fair     = "TCP ping-pong, 1 connection together with 8 bulk streams, on one core"
		loads    = "Start and reload with 5,000 services"

		manyWhy    = "within the spread of the rounds: over 4 s, 16 and 64 streams cost the same. Runs of nearly the same program gave 0.74x to 1.07x, the higher ones with windows of 0.6 s: the first 8 MiB of each stream are spliced in smaller pieces"
		stalledWhy = "the kernel's buffers of the stalled connections take 0.50 GB of its TCP memory, nginx's 0.53 GB. The clients that stopped reading cause no events. It is within the spread of the rounds: runs of nearly the same program gave 0.97x to 1.08x"
	)
	all := []aim{
		{row: pingPong, key: "p99", than: nginx, ratio: 1.10},
		{row: pingPong, key: "cpu", than: nginx, ratio: 1.00},
		{row: udp, key: "p99", than: nginx, ratio: 1.10},
		{row: udp, key: "cpu", than: nginx, ratio: 0.90,
			why: "87 % of it is spent in the kernel, 71 % for two sendto(2), which nginx makes too. Runs of nearly the same program gave 0.83x to 0.91x"},
		{row: connect, key: "cpu", than: nginx, ratio: 0.95,
			why: "90 % of it is spent in the kernel: 29 % for shutdown and close, 24 % for two writes, 14 % for connecting, which nginx makes too. setsockopt(2) and getsockname(2) take 2.4 %, as Go's scheduler, allocation and garbage collection. Runs of nearly the same program gave 0.90x to 0.93x"},
		{row: connect, key: "p99", than: nginx, ratio: 1.00,
			why: "one goroutine serves the clients that come at once, nginx has two processes. More goroutines cost 11 to 21 % more CPU, and answering clients before accepting and closing others changed nothing. Runs of nearly the same program gave 0.93x to 1.04x before the heap had a floor, and 0.95x and 0.97x with it"},
		{row: one, key: "cpu", than: nginx, ratio: 1.05,
			why: "the relay's thread sleeps after each message and is woken by the next one, as nginx's. Runs of nearly the same program gave 0.90x to 1.02x"},
		{row: full, key: "rate", than: nginx, ratio: 1.00, atLeast: true,
			why: "the rate is that of two shared cores, of which the relay uses less. A goroutine of its own for the clients' socket changed nothing. Runs of nearly the same program gave 0.96x to 1.06x"},
		{row: full, key: "cpu", than: nginx, ratio: 1.00},
		{row: full, key: "p99", than: nginx, ratio: 1.10},
		{row: filling, key: "p99", than: nginx, ratio: 1.10,
			why: "not known. The table of descriptors, whose growth stopped the process for 4 to 23 ms, is grown once at the start"},
		{row: down + stalled, key: "cpu", thanRow: down, ratio: 1.05, why: stalledWhy},
		{row: up + stalled, key: "cpu", thanRow: up, ratio: 1.05, why: stalledWhy},
		{row: strings.Replace(up, "16", "64", 1), key: "cpu", thanRow: up, ratio: 1.05, why: manyWhy},
		{row: strings.Replace(down, "16", "64", 1), key: "cpu", thanRow: down, ratio: 1.05, why: manyWhy},
		{row: fair, key: "p50", than: nginx, ratio: 1.10},
		{row: fair, key: "p90", than: nginx, ratio: 1.10},
		{row: connect + ", to a backend 20 ms away", key: "cpu", thanRow: connect, ratio: 1.10,
			why: "128 connections are open at a time, not 8, so what a connection needs has left the processor's caches: close(2) takes 16 µs instead of 12. The relay's thread sleeps more often. Runs of nearly the same program gave 1.05x to 1.26x, nginx's own ratio in them was 0.96x to 1.17x"},
	}
	for _, key := range []string{"start", "start cpu", "start memory", "reload", "reload cpu", "reload memory"} {
		all = append(all, aim{row: loads, key: key, than: proxy, ratio: 2})
	}
	for _, row := range []string{"TCP bulk, client to backend, 1 stream", "TCP bulk, backend to client, 1 stream", up, down} {
		for _, peer := range []struct {
			name  string
			ratio float64
		}{{nginx, 0.75}, {haproxy, 0.80}} {
			all = append(all, aim{row: row, key: "machine", than: peer.name, ratio: peer.ratio,
				why: "the load and the backend use most of the machine's CPU, and the kernel's own threads deliver a part of the packets; the relay's own share is in the tables"})
		}
	}
	for _, grown := range []struct{ row, from, why string }{
		{row: "TCP ping-pong, 64 B, 1,000 connections", from: pingPong}, {row: "TCP ping-pong, 64 B, 8,000 connections", from: pingPong},
		{row: "TCP ping-pong, 64 B, 10,000 connections", from: pingPong},
		{row: "UDP ping-pong, 64 B, 1,000 clients", from: udp}, {row: "UDP ping-pong, 64 B, 10,000 clients", from: udp},
		{row: "TCP ping-pong, 64 B, 64 connections to 10 services", from: pingPong}, {row: "TCP ping-pong, 64 B, 64 connections to 1,000 services", from: pingPong},
		{row: "UDP ping-pong, 64 B, 64 clients of 10 services", from: udp},
		{row: "UDP ping-pong, 64 B, 64 clients of 1,000 services", from: udp,
			why: "each datagram is read by a system call of its own, instead of one for many"},
	} {
		all = append(all, aim{row: grown.row, key: "cpu", thanRow: grown.from, ratio: 1.15, growth: true, why: grown.why})
	}
	for _, r := range rows {
		if key := r.metrics[0].keys[0]; r.group != failover {
			all = append(all, aim{row: r.name, key: key, of: portable, than: proxy, ratio: 1.3})
		}
	}
	return all
}
