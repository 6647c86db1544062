package hook

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// dropLogInterval is the least time between two log lines about dropped events.
const dropLogInterval = time.Second

// drops counts dropped events and logs at most one line per dropLogInterval. The
// first drop of an interval is logged at once, the others together at its end.
type drops struct {
	mu       sync.Mutex // guards the fields below
	total    uint64
	unlogged uint64      // since the last line
	last     job         // the last one that was dropped
	reason   error       // why it was dropped
	timer    *time.Timer // calls flush at the end of the interval; nil between intervals
	closed   bool
}

// record counts n dropped events, of which j is the last.
func (d *drops) record(n int, j job, reason error) {
	d.mu.Lock()
	d.total += uint64(n)
	d.unlogged += uint64(n)
	d.last, d.reason = j, reason
	first := d.timer == nil
	if first && !d.closed {
		d.timer = time.AfterFunc(dropLogInterval, d.flush)
	}
	d.mu.Unlock()
	if first {
		d.log()
	}
}

// flush ends an interval. It logs the drops of the interval and, if there were
// any, begins the next one.
func (d *drops) flush() {
	d.mu.Lock()
	if d.unlogged > 0 && !d.closed {
		d.timer.Reset(dropLogInterval)
	} else {
		d.timer = nil
	}
	d.mu.Unlock()
	d.log()
}

// close logs the remaining drops at once. Later drops are logged immediately.
func (d *drops) close() {
	d.mu.Lock()
	d.closed = true
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.mu.Unlock()
	d.log()
}

// log logs the drops since the last line, if there are any.
func (d *drops) log() {
	d.mu.Lock()
	count, j, reason := d.unlogged, d.last, d.reason
	d.unlogged, d.last = 0, job{}
	d.mu.Unlock()
	if count == 0 {
		return
	}
	j.Log.Error("events dropped", append(j.fields(), zap.Uint64("count", count), zap.Error(reason))...)
}

func (d *drops) count() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}
