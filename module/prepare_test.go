package module_test

import (
	"math"
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

// A process with a relay collects no garbage below a heap of 32 MB. With GOGC=off there is no
// floor.
func TestHeapFloor(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "1GiB")
	backend, _ := echoTCP(t, "a")
	for gogc, want := range map[string]bool{"100": true, "off": false} {
		t.Setenv("GOGC", gogc)
		p := startProcess(t, block("relay+tcp/"+freeAddr(t), backend), 0)
		if want {
			relaytest.Eventually(t, "the heap floor to count", func() bool { // a collection has to see it
				return processMetric(t, p.admin, "go_memstats_next_gc_bytes") >= 32<<20
			})
		} else if got := processMetric(t, p.admin, "go_memstats_heap_inuse_bytes"); got >= 16<<20 {
			t.Errorf("%.0f bytes of the heap are in use", got)
		}
	}
}
