package main

import (
	"errors"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	r := &results{}
	r.begin("row")
	r.add("row", ours, values{"cpu": 11, "rate": 90})
	r.add("row", nginx, values{"cpu": 10, "rate": 100})
	r.begin("grown")
	r.add("grown", ours, values{"cpu": 13.2})
	r.add("grown", nginx, values{"cpu": 13})
	for _, c := range []struct {
		name    string
		aim     aim
		reached float64
		met     bool
	}{
		{"at most, met at the limit", aim{row: "row", key: "cpu", than: nginx, ratio: 1.1}, 1.1, true},
		{"at most, missed", aim{row: "row", key: "cpu", than: nginx, ratio: 1.09}, 1.1, false},
		{"at least, met", aim{row: "row", key: "rate", than: nginx, ratio: 0.9, atLeast: true}, 0.9, true},
		{"at least, missed", aim{row: "row", key: "rate", than: nginx, ratio: 0.91, atLeast: true}, 0.9, false},
		{"of another target", aim{row: "row", key: "cpu", of: nginx, than: ours, ratio: 1}, 10.0 / 11, true},
		{"of another row", aim{row: "grown", key: "cpu", thanRow: "row", ratio: 1.15}, 1.2, false},
		{"growth that nginx has too", aim{row: "grown", key: "cpu", thanRow: "row", ratio: 1.15, growth: true}, 1.2, true},
	} {
		v, ok := c.aim.judge(r)
		if !ok || v.reached < c.reached-0.001 || v.reached > c.reached+0.001 || v.met != c.met {
			t.Errorf("%s: reached %.3f, met %v, measured %v", c.name, v.reached, v.met, ok)
		}
	}
	r.begin("left out")
	r.skip("left out", errors.New("too few descriptors"))
	for _, missing := range []aim{
		{row: "left out", key: "cpu", thanRow: "row", growth: true}, {row: "row", key: "cpu", thanRow: "left out"},
		{row: "absent", key: "cpu", than: nginx}, {row: "row", key: "p99", than: nginx}, {row: "row", key: "cpu", than: proxy}, {row: "row", key: "cpu", thanRow: "absent"},
	} {
		if v, ok := missing.judge(r); ok {
			t.Errorf("a verdict on what was not measured: %+v", v)
		}
	}
}

func TestJudgement(t *testing.T) {
	r := resultsOf("row", map[string]values{ours: {"cpu": 3, "p99": 1}, nginx: {"cpu": 2, "p99": 1}, portable: {"cpu": 5}, proxy: {"cpu": 4}})
	r.begin("other")
	r.add("other", portable, values{"cpu": 8})
	r.add("other", proxy, values{"cpu": 4})
	got := judgement(r.verdicts([]aim{
		{row: "row", key: "p99", than: nginx, ratio: 1.1, why: "never shown"},
		{row: "row", key: "cpu", than: nginx, ratio: 1, why: "the cause"},
		{row: "absent", key: "cpu", than: nginx, ratio: 1},
		{row: "row", key: "cpu", of: portable, than: proxy, ratio: 1.3},
		{row: "other", key: "cpu", of: portable, than: proxy, ratio: 1.3},
	}))
	want := strings.Join([]string{
		"| row | value | aim | reached | |",
		"|---|---|---|---:|---|",
		"| row | p99 | at most 1.10x nginx tuned | 1.00x | met |",
		"| row | CPU | at most 1.00x nginx tuned | 1.50x | **missed** |",
		"| all 2 rows, relay, portable | CPU or memory | at most 1.30x caddy-l4 proxy | 1.25x to 2.00x | **missed**: other 2.00x |",
		"",
		"2 of 4 aims are met. Causes that are known:",
		"",
		"- row, CPU: the cause",
		"",
	}, "\n")
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if got := judgement(r.verdicts([]aim{{row: "row", key: "p99", than: nginx, ratio: 1.1, why: "never shown"}})); !strings.HasSuffix(got, "\n1 of 1 aims are met.\n") {
		t.Errorf("got:\n%s", got)
	}
}
