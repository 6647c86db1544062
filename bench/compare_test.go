package main

import "testing"

func resultsOf(row string, of map[string]values) *results {
	r := &results{}
	r.begin(row)
	for target, v := range of {
		r.add(row, target, v)
	}
	return r
}

func TestCompare(t *testing.T) {
	old := resultsOf("row", map[string]values{
		ours:     {"cpu": 100, "rate": 1000, "p99": 10, "load": 1, "failed": 0},
		nginx:    {"cpu": 100, "rate": 1000},
		"peer":   {"cpu": 1},
		portable: {"cpu": 100},
	})
	old.begin("row of before")
	now := resultsOf("row", map[string]values{
		ours:     {"cpu": 102, "rate": 900, "p99": 11, "load": 9, "failed": 3, "new": 1}, // the CPU is not more than 2 % worse
		nginx:    {"cpu": 90, "rate": 950},
		"peer":   {"cpu": 2},
		portable: {"cpu": 102.1},
	})
	now.begin("row of now")
	now.add("row of now", ours, values{"cpu": 1})
	want := "Worse by more than 2 %: 4 of 5 values\n" +
		"- row, relay, relay+, failed: 3.00, was 0 (worse than nothing)\n" +
		"- row, relay, relay+, p99: 11.0, was 10.0 (10 % worse)\n" +
		"- row, relay, relay+, rate: 900, was 1,000 (10 % worse; nginx tuned 5 % worse)\n" +
		"- row, relay, portable, cpu: 102, was 100 (2 % worse; nginx tuned 10 % better)\n"
	if got := now.compare(old); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if got, want := now.compare(now), "Worse by more than 2 %: 0 of 7 values\n"; got != want {
		t.Errorf("compared with itself: %q, want %q", got, want)
	}
}

// Of several rounds, medians are compared.
func TestCompareMedians(t *testing.T) {
	old, now := &results{}, &results{}
	old.begin("row")
	now.begin("row")
	for _, v := range []float64{1, 50, 2} {
		old.add("row", ours, values{"cpu": 2})
		now.add("row", ours, values{"cpu": v})
	}
	if got, want := now.compare(old), "Worse by more than 2 %: 0 of 1 values\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
