package dgram

import (
	"sync/atomic"
	"time"
)

// portMemory records when the port of each ended session was last used. An answer
// that is late on its way arrives at whatever socket has the port by then, so a
// port must not serve another session too soon. The system assigns ports at
// random: without this, of two sessions that follow each other quickly, one in
// 28,000 gets the port of the other.
type portMemory struct {
	since [1 << 16]atomic.Uint32 // by port: when its last session ended, in milliseconds after processStart; 0: never
}

// ports is shared by all engines.
var ports portMemory

var processStart = time.Now().Add(-time.Millisecond) // so that no time is 0

const (
	// restTime is how long a port rests. Filters and paths hold packets for less
	// than that, except in an outage.
	restTime = 200 * time.Millisecond
	// portTries bounds how often a socket gets another port because its port has
	// not rested. If most free ports rest, one that has not is better than none.
	portTries = 16
)

// ended records the end of a port's session.
func (m *portMemory) ended(port uint16, now time.Time) { m.since[port].Store(milliseconds(now)) }

// rested reports whether a port may serve another session.
func (m *portMemory) rested(port uint16, now time.Time) bool {
	since := m.since[port].Load()
	return since == 0 || milliseconds(now)-since >= uint32(restTime.Milliseconds())
}

func milliseconds(now time.Time) uint32 { return uint32(now.Sub(processStart).Milliseconds()) }
