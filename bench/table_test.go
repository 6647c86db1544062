package main

import (
	"errors"
	"strings"
	"testing"
)

func TestQuotient(t *testing.T) {
	if got, ok := quotient([]float64{1, 2, 9}, []float64{4}); !ok || got != 0.5 {
		t.Errorf("ratio of medians 2 and 4: %v, %v", got, ok)
	}
	if _, ok := quotient(nil, []float64{4}); ok {
		t.Error("a ratio without values")
	}
	if _, ok := quotient([]float64{1}, []float64{0}); ok {
		t.Error("a ratio to zero")
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.0625: "0.062", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 1234: "1,234", 1234567.8: "1,234,568",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestTables(t *testing.T) {
	rows := []row{{name: "row", group: "TCP", metrics: []metric{cpuPer("a unit"), single("rate", "a second", false)}}, {name: "other", group: "UDP"}}
	r := &results{Columns: []string{"direct", ours, "peer", "absent"}}
	r.begin("row")
	r.add("row", "direct", values{"rate": 1000, "machine": 5})
	for _, v := range []float64{2, 1, 3} {
		r.add("row", ours, values{"cpu": v, "machine": 8})
		r.add("row", "peer", values{"cpu": 2 * v, "machine": 10})
	}
	r.add("row", ours, values{"rate": 500})
	r.fail("row", "peer", errors.New("not\nthere"))
	r.fail("row", "peer", errors.New("again"))
	r.begin("other")
	r.skip("other", errors.New("no root"))
	got := r.tables(rows)
	want := strings.Join([]string{
		"",
		"**TCP**",
		"",
		"| row | unit | direct | relay, relay+ | peer | spread |",
		"|---|---|---:|---:|---:|---:|",
		"| row | CPU a unit, relay / machine | - / 5.00 (- / 1.60x) | 2.00 / 8.00 | 4.00 / 10.0 (0.50x / 0.80x) | 100 / 0 % |",
		"|  | a second | 1,000 | 500 | - | 0 % |",
		"",
		"Not measured:",
		"",
		"- row, peer: not there",
		"",
		"Rows that were left out:",
		"",
		"- other: no root",
		"",
	}, "\n")
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
