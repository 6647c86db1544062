package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The documents have the parts that -write replaces, and a second run replaces what
// the first one wrote.
func TestWriteDocuments(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"docs/performance.md", "README.md"} {
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const name = "TCP ping-pong, 64 B, 64 connections"
	rows := []row{{name: name, group: "TCP", metrics: roundTrips()}}
	for _, cpu := range []float64{7.25, 8.25} {
		r := resultsOf(name, map[string]values{ours: {"cpu": cpu, "machine": 20}, nginx: {"cpu": 10, "machine": 30}})
		r.Facts, r.Columns = []string{"a fact of this run"}, []string{ours, nginx}
		if err := r.write(filepath.Join(dir, "docs/performance.md"), rows); err != nil {
			t.Fatal(err)
		}
	}
	for file, wanted := range map[string][]string{
		"docs/performance.md": {
			"- a fact of this run\n",
			"| " + name + " | CPU | at most 1.00x nginx tuned | 0.82x | met |\n",
			"| " + name + " | CPU µs per round trip, relay / machine | 8.25 / 20.0 | 10.0 / 30.0 (0.82x / 0.67x) | 0 / 0 % |\n",
		},
		"README.md": {"| CPU, TCP ping-pong, 64 connections | 0.82 |  |  |\n"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wanted {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %q", file, want)
			}
		}
		if strings.Contains(string(text), "0.72") && file == "README.md" || strings.Contains(string(text), "7.25") {
			t.Errorf("%s still has what the first run wrote", file)
		}
	}
}

// Lines of README's table whose rows were not measured are left out.
func TestSummaryLeavesOut(t *testing.T) {
	r := resultsOf("TCP idle connections, 5,000", map[string]values{ours: {"memory": 1}, nginx: {"memory": 8}, proxy: {"memory": 40}})
	want := "| | nginx, tuned | haproxy, splice | caddy-l4 `proxy` |\n|---|---:|---:|---:|\n" +
		"| memory, an idle TCP connection, a UDP session | 0.12 |  | 0.03 |\n"
	if got := r.summary(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
