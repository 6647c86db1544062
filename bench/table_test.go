package main

import (
	"errors"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{
		{nil, 0}, {[]float64{7}, 7}, {[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.of); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.of, got, c.want)
		}
	}
	unsorted := []float64{3, 1, 2}
	if median(unsorted); unsorted[0] != 3 {
		t.Error("median sorted its argument")
	}
}

func TestRatio(t *testing.T) {
	if got, ok := ratio([]float64{1, 2, 9}, []float64{4}); !ok || got != 0.5 {
		t.Errorf("ratio of medians 2 and 4: %v, %v", got, ok)
	}
	if _, ok := ratio(nil, []float64{4}); ok {
		t.Error("a ratio without values")
	}
	if _, ok := ratio([]float64{1}, []float64{0}); ok {
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

func TestMarkdown(t *testing.T) {
	r := &results{}
	cpu, rate := metric{"cpu", "CPU", true}, metric{"rate", "a second", false}
	r.begin("TCP", "row", cpu)
	r.begin("TCP", "row", rate)
	r.add("row", rate, "direct", 1000)
	for _, v := range []float64{2, 1, 3} {
		r.add("row", cpu, ours, v)
		r.add("row", cpu, "peer", 2*v)
	}
	r.add("row", rate, ours, 500)
	r.fail("row", "peer", errors.New("not\nthere"))
	r.fail("row", "peer", errors.New("again"))
	got := r.markdown(about{facts: []string{"fact"}, order: []string{"direct", ours, "peer", "absent"}})
	want := strings.Join([]string{
		"- fact",
		"",
		"**TCP**",
		"",
		"| row | unit | direct | relay, relay+ | peer | spread |",
		"|---|---|---:|---:|---:|---:|",
		"| row | CPU | - | 2.00 | 4.00 (0.50x) | 100 % |",
		"|  | a second | 1,000 | 500 | - | 0 % |",
		"",
		"Not measured:",
		"",
		"- row, peer: not there",
		"",
	}, "\n")
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestInsert(t *testing.T) {
	document := "above\n" + tableBegins + "\nold\n" + tableEnds + "\nbelow\n"
	want := "above\n" + tableBegins + "\nnew\n" + tableEnds + "\nbelow\n"
	if got := insert(document, "new\n"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := insert("no marks", "new\n"); got != "new\n" {
		t.Errorf("got %q", got)
	}
}
