package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// write replaces the generated parts of a document, and those of the README in the
// directory above it.
func (r *results) write(file string, rows []row) error {
	readme := filepath.Join(filepath.Dir(file), "..", "README.md")
	return errors.Join(
		rewrite(file, map[string]string{
			"run":    r.about(),
			"aims":   judgement(r.verdicts(goals(rows))),
			"tables": strings.TrimPrefix(r.tables(rows), "\n"),
		}),
		rewrite(readme, map[string]string{"summary": r.summary()}))
}

// about returns the facts as a list.
func (r *results) about() string {
	var out strings.Builder
	for _, fact := range r.Facts {
		fmt.Fprintf(&out, "- %s\n", fact)
	}
	return out.String()
}

// summaryLines are the lines of README's table, with the rows whose ratios each has.
var summaryLines = []struct {
	title string
	key   string
	rows  []string
}{
	{"CPU, TCP bulk, 16 streams, up and down", "cpu", []string{"TCP bulk, client to backend, 16 streams", "TCP bulk, backend to client, 16 streams"}},
	{"CPU of the whole machine for the same", "machine", []string{"TCP bulk, client to backend, 16 streams", "TCP bulk, backend to client, 16 streams"}},
	{"CPU, TCP ping-pong, 64 connections", "cpu", []string{"TCP ping-pong, 64 B, 64 connections"}},
	{"its latency, 99th percentile", "p99", []string{"TCP ping-pong, 64 B, 64 connections"}},
	{"CPU, a new TCP connection", "cpu", []string{"TCP connect, echo, close"}},
	{"CPU, UDP ping-pong, 64 clients", "cpu", []string{"UDP ping-pong, 64 B, 64 clients"}},
	{"CPU, UDP, 200,000 datagrams/s, up and down", "cpu", []string{"UDP client to backend, 200k/s", "UDP backend to client, 200k/s"}},
	{"CPU, a new UDP session", "cpu", []string{"UDP sessions, one request and one reply"}},
	{"memory, an idle TCP connection, a UDP session", "memory", []string{"TCP idle connections, 5,000", "UDP concurrent sessions, 10,000"}},
}

// summary returns README's table: the ratios of our CPU to that of the peers.
func (r *results) summary() string {
	peers := []string{nginx, haproxy, proxy}
	var out strings.Builder
	out.WriteString("| | nginx, tuned | haproxy, splice | caddy-l4 `proxy` |\n|---|---:|---:|---:|\n")
	for _, line := range summaryLines {
		cells, measured := "", false
		for _, peer := range peers {
			ratios := r.ratios(line.rows, line.key, peer)
			cells += " " + ratios + " |"
			measured = measured || ratios != ""
		}
		if measured {
			fmt.Fprintf(&out, "| %s |%s\n", line.title, cells)
		}
	}
	return out.String()
}

// ratios returns the ratios of our median to a peer's in some rows.
func (r *results) ratios(rows []string, key, peer string) string {
	var all []string
	for _, row := range rows {
		measured := r.row(row)
		if measured == nil {
			continue
		}
		if factor, ok := quotient(measured.Samples[ours][key], measured.Samples[peer][key]); ok {
			all = append(all, fmt.Sprintf("%.2f", factor))
		}
	}
	return strings.Join(all, ", ")
}
