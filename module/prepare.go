package module

import (
	"math"
	"runtime/debug"
	goruntime "runtime/metrics"
	"sync"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// prepare prepares the process for clients when its first service starts. It does not
// wait.
var prepare = sync.OnceFunc(func() {
	go netio.GrowDescriptorTable()
	heapFloor()
})

// heapFloor allocates memory that is never used, so that garbage is collected less often.
//
// Go collects whenever the heap is twice as large as what was in use after the last time
// (GOGC=100). Caddy uses 3 MB, so ten thousand short connections a second lead to some
// collections a second, each of which delays clients by milliseconds. The floor counts as
// used. Nothing writes to it, so in a process that has just started the system gives it no
// memory. Garbage takes up to maxHeapFloor more.
var heapFloor = sync.OnceValue(func() []byte {
	return make([]byte, heapFloorSize(gcPercent(), debug.SetMemoryLimit(-1)))
})

const (
	maxHeapFloor = 16 << 20
	// minMemoryLimit is the least memory limit with a floor, which counts against it.
	minMemoryLimit = 16 * maxHeapFloor
)

// heapFloorSize returns the size of the heap floor. percent is GOGC, 0 for off. limit is
// GOMEMLIMIT, which the commands set to nine tenths of the limit of the container.
func heapFloorSize(percent uint64, limit int64) uint64 {
	if percent == 0 || limit < minMemoryLimit {
		return 0
	}
	return min(maxHeapFloor*100/percent, maxHeapFloor)
}

// gcPercent returns GOGC, or 0 if it is off.
func gcPercent() uint64 {
	sample := []goruntime.Sample{{Name: "/gc/gogc:percent"}}
	goruntime.Read(sample)
	if percent := sample[0].Value.Uint64(); percent < math.MaxInt32 {
		return percent
	}
	return 0
}
