package hook

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// dropsEvery is how often dropped events are logged.
const dropsEvery = time.Second

// drops counts dropped events and lets one line a second through. The first of
// a quiet time is written at once, the rest as a count.
type drops struct {
	mu     sync.Mutex // guards what follows
	total  uint64
	unsaid uint64      // since the last line
	last   job         // the latest of them
	why    error       // it was dropped
	timer  *time.Timer // runs flush at the end of this second; nil if none is open
	closed bool
}

// note counts n events, of which j is the last.
func (d *drops) note(n int, j job, why error) {
	d.mu.Lock()
	d.total += uint64(n)
	d.unsaid += uint64(n)
	d.last, d.why = j, why
	first := d.timer == nil
	if first && !d.closed {
		d.timer = time.AfterFunc(dropsEvery, d.flush)
	}
	d.mu.Unlock()
	if first {
		d.write()
	}
}

// flush ends a second: what came in it is written and opens the next one.
func (d *drops) flush() {
	d.mu.Lock()
	if d.unsaid > 0 && !d.closed {
		d.timer.Reset(dropsEvery)
	} else {
		d.timer = nil
	}
	d.mu.Unlock()
	d.write()
}

// close writes what is left to say, without waiting for its second to end.
func (d *drops) close() {
	d.mu.Lock()
	d.closed = true
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.mu.Unlock()
	d.write()
}

func (d *drops) write() {
	d.mu.Lock()
	count, j, why := d.unsaid, d.last, d.why
	d.unsaid, d.last = 0, job{}
	d.mu.Unlock()
	if count == 0 {
		return // nothing came, or another has said it meanwhile
	}
	j.Log.Error("events dropped", append(j.fields(), zap.Uint64("count", count), zap.Error(why))...)
}

func (d *drops) count() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}
