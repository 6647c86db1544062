package module_test

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
)

func TestHeapFloorSize(t *testing.T) {
	const mb = 1 << 20
	for _, test := range []struct {
		percent uint64 // GOGC
		limit   int64
		want    uint64
	}{
		{100, math.MaxInt64, 16 * mb},
		{100, 256 * mb, 16 * mb},
		{100, 256*mb - 1, 0},
		{400, math.MaxInt64, 4 * mb},
		{50, math.MaxInt64, 16 * mb},
		{0, math.MaxInt64, 0},
	} {
		if got := module.HeapFloorSize(test.percent, test.limit); got != test.want {
			t.Errorf("%+v: got %d", test, got)
		}
	}
}

// GOGC as the program has it now counts.
func TestGCPercent(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	for set, want := range map[int]uint64{100: 100, 400: 400, -1: 0} {
		debug.SetGCPercent(set)
		if got := module.GCPercent(); got != want {
			t.Errorf("GOGC=%d: got %d", set, got)
		}
	}
}

// A process with a relay collects no garbage below a heap of 32 MB.
func TestHeapFloor(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "1GiB")
	t.Setenv("GOGC", "100")
	backend, _ := echoTCP(t, "a")
	p := startProcess(t, block("relay+tcp/"+freeAddr(t), backend), 0)
	relaytest.Eventually(t, "the heap floor to count", func() bool { // a collection has to see it
		return processMetric(t, p.admin, "go_memstats_next_gc_bytes") >= 32<<20
	})
}
