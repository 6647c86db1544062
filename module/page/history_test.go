package page

import (
	"testing"
	"time"
)

func at(seconds int, connections, bytes uint64) counts {
	return counts{at: time.Unix(int64(seconds), 0), sample: sample{connections: connections, bytes: bytes}, up: bytes}
}

func TestHistoryKeepsTenMinutes(t *testing.T) {
	h := newHistory(at(0, 100, 0))
	if h.view() != nil {
		t.Error("a history without events has a view")
	}
	for i := 1; i <= samples+5; i++ {
		h.step(at(10*i, 100+uint64(i*(i+1)/2), 0)) // step i has i connections
	}
	got := h.view().Connections
	if len(got) != samples || got[0] != 6 || got[samples-1] != samples+5 {
		t.Errorf("got %v, want the steps 6 to %d", got, samples+5)
	}
	h.step(at(1000, 0, 0)) // counters never fall; a new service of an old name starts at zero
	if got := h.view().Connections[samples-1]; got != 0 {
		t.Errorf("a fall of the counter became %d connections", got)
	}
}

func TestRates(t *testing.T) {
	h := newHistory(at(0, 0, 0))
	for i := 1; i <= 20; i++ {
		now := at(i, uint64(10*i), uint64(1000*i))
		if got := h.rates(now); got.Connections != 10 || got.Up != 1000 {
			t.Errorf("after %d s: got %v, want 10 connections and 1000 bytes a second", i, got)
		}
		h.read(now)
	}
	// Within twice the window after the end of traffic the rate is zero.
	for i := 21; i <= 21+2*int(rateWindow/time.Second); i++ {
		h.read(at(i, 200, 20000))
	}
	if got := h.rates(at(30, 200, 20000)); got != (rates{}) {
		t.Errorf("without traffic the rates are %v", got)
	}
}

func TestRefusedLately(t *testing.T) {
	refused := func(seconds int, n uint64) counts {
		return counts{at: time.Unix(int64(seconds), 0), sample: sample{refused: n}}
	}
	h := newHistory(refused(0, 5))
	if got := h.refusedLately(refused(5, 7)); got != 2 {
		t.Errorf("in an unfinished step: got %d, want 2", got)
	}
	h.step(refused(10, 7))
	for i := 2; i <= 6; i++ {
		h.step(refused(10*i, 7))
	}
	if got := h.refusedLately(refused(65, 7)); got != 2 {
		t.Errorf("after a minute: got %d, want 2", got)
	}
	h.step(refused(70, 7))
	if got := h.refusedLately(refused(75, 7)); got != 0 {
		t.Errorf("after more than a minute: got %d, want 0", got)
	}
}
