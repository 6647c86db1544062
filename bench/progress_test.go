package main

import (
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	var p progress
	p.timed(time.Hour)
	p.forget()
	for i := 1; i <= 1000; i++ {
		p.timed(time.Duration(i) * time.Millisecond)
	}
	v := values{}
	p.addTo(v)
	for key, want := range map[string]float64{"p50": 500, "p90": 900, "p99": 990, "p99.9": 999} {
		if got := v[key]; got < want*0.998 || got > want*1.002 {
			t.Errorf("%s of 1 to 1,000 ms = %v, want %v", key, got, want)
		}
	}
}

func TestQuantilesOfNothing(t *testing.T) {
	var p progress
	v := values{}
	p.addTo(v)
	p.timed(time.Second)
	p.forget()
	p.addTo(v)
	if len(v) != 0 {
		t.Errorf("got %v from no latencies", v)
	}
}

func TestLatenciesOutOfRange(t *testing.T) {
	var p progress
	p.timed(0)
	p.timed(time.Hour)
	v := values{}
	p.addTo(v)
	if v["p50"] != 0.001 || v["p99.9"] < 59_000 {
		t.Errorf("got %v, want one microsecond and one minute", v)
	}
}
