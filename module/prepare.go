package module

import (
	"runtime/debug"
	"sync"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// prepare prepares the process for clients when its first service starts. It does not
// wait.
var prepare = sync.OnceFunc(func() {
	go netio.GrowDescriptorTable()
	heapFloor()
})

// heapFloor is memory that nobody uses. It makes garbage collections rarer.
//
// Go collects whenever the heap is twice as large as what was in use after the last time.
// Caddy uses 3 MB, so ten thousand short connections a second lead to some collections a
// second, each of which delays clients by milliseconds. The floor counts as used, but nothing
// writes to it, so the system gives it no memory. Garbage can take as much memory as the floor
// has.
var heapFloor = sync.OnceValue(func() []byte { return make([]byte, heapFloorSize(debug.SetMemoryLimit(-1))) })

// heapFloorSize returns the size of the heap floor for a memory limit (GOMEMLIMIT, which Caddy
// sets to nine tenths of the limit of its container). The floor counts against the limit, so
// there is none if it would be a large part of that.
func heapFloorSize(limit int64) int {
	const size = 16 << 20
	if limit < 16*size {
		return 0
	}
	return size
}
