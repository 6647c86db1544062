package logqueue

import (
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// output holds the lines that wait for one log. A goroutine writes them. It starts
// with a line and ends when no line waits.
type output struct {
	queues *Queues     // set once, as is direct
	direct *zap.Logger // writes to the log without the queue

	mu        sync.Mutex // guards the fields below
	waiting   [levels]list
	count     int    // lines in waiting
	added     uint64 // lines that have entered waiting so far; the number of the latest one
	writing   bool   // the goroutine runs
	written   uint64 // lines that the goroutine has written so far
	unlogged  uint64 // dropped lines that the log does not mention yet
	abandoned bool   // the log is not read and its config has ended: all lines are dropped
	flushes   []flush
}

// flush is a call that waits for a line to be written.
type flush struct {
	number uint64 // of the line
	done   chan struct{}
}

// levels is how many levels waiting distinguishes: DEBUG, INFO, WARN, and ERROR
// with those above it.
const levels = 4

// levelOf returns the index of a line's level in waiting.
func (l *line) levelOf() int {
	return int(min(max(l.own.Level, zapcore.DebugLevel), zapcore.ErrorLevel) - zapcore.DebugLevel)
}

// list is a first-in-first-out list of lines.
type list struct{ first, last *line }

func (q *list) push(l *line) {
	if q.first == nil {
		q.first = l
	} else {
		q.last.next = l
	}
	q.last = l
}

func (q *list) pop() *line {
	l := q.first
	q.first, l.next = l.next, nil
	return l
}

// add adds a line, or drops it or another one.
func (o *output) add(l *line) {
	o.mu.Lock()
	defer o.mu.Unlock()
	level := l.levelOf()
	if o.abandoned || o.count >= Limit && !o.dropBelowLocked(level) {
		o.dropLocked(1)
		return
	}
	o.added++
	o.count++
	l.number = o.added
	o.waiting[level].push(l)
	if !o.writing {
		o.writing = true
		o.queues.setActive(o, true)
		go o.write() // ends when no line waits
	}
}

// dropBelowLocked drops the oldest line of the lowest level, if that is below
// level. It reports whether there was one.
func (o *output) dropBelowLocked(level int) bool {
	for i := range level {
		if o.waiting[i].first != nil {
			o.waiting[i].pop()
			o.count--
			o.dropLocked(1)
			return true
		}
	}
	return false
}

// dropLocked counts dropped lines.
func (o *output) dropLocked(n uint64) {
	o.unlogged += n
	o.queues.dropped.Add(n)
}

// write writes lines until none waits.
func (o *output) write() {
	for {
		l, dropped := o.next()
		switch {
		case l != nil:
			o.writeLine(l)
		case dropped > 0:
			o.direct.Warn("log lines dropped", zap.Uint64("count", dropped))
		default:
			return
		}
	}
}

// writeLine writes a line. A line whose encoding panics is dropped.
func (o *output) writeLine(l *line) {
	written := false
	defer func() {
		_ = recover()
		o.mu.Lock()
		defer o.mu.Unlock()
		o.written++
		if !written {
			o.dropLocked(1)
		}
	}()
	l.own.ErrorOutput = zapcore.AddSync(os.Stderr)
	l.own.Write(l.fields...)
	written = true
}

// next returns the next line, or the number of dropped lines if it is time to log
// that. It returns neither if the goroutine is to end. It is called when all lines
// that it has returned are written.
func (o *output) next() (l *line, dropped uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.abandoned = false
	if o.unlogged > 0 && o.count <= Limit/2 {
		dropped, o.unlogged = o.unlogged, 0
		return nil, dropped
	}
	oldest := -1
	for i := range o.waiting {
		if first := o.waiting[i].first; first != nil && (oldest < 0 || first.number < o.waiting[oldest].first.number) {
			oldest = i
		}
	}
	if oldest >= 0 {
		l = o.waiting[oldest].pop()
		o.count--
	} else {
		o.writing = false
		o.queues.setActive(o, false)
	}
	o.endFlushesLocked(l)
	return l, 0
}

// endFlushesLocked ends the flushes whose lines come before the next one. next is
// nil if no line waits.
func (o *output) endFlushesLocked(next *line) {
	rest := o.flushes[:0]
	for _, f := range o.flushes {
		if next == nil || next.number > f.number {
			close(f.done)
		} else {
			rest = append(rest, f)
		}
	}
	clear(o.flushes[len(rest):])
	o.flushes = rest
}

// flush waits until the lines that wait now are written or dropped, at most for a
// timeout. It reports whether they are.
func (o *output) flush(timeout time.Duration) bool {
	o.mu.Lock()
	if !o.writing {
		o.mu.Unlock()
		return true
	}
	f := flush{o.added, make(chan struct{})}
	o.flushes = append(o.flushes, f)
	o.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-f.done:
		return true
	case <-timer.C:
		return false
	}
}

// release flushes, and drops the waiting lines if the log is not read.
func (o *output) release(timeout time.Duration) {
	o.mu.Lock()
	before := o.written
	o.mu.Unlock()
	if o.flush(timeout) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.written != before || !o.writing {
		return // it is read, but slowly
	}
	o.abandoned = true
	o.dropLocked(uint64(o.count))
	o.count, o.waiting = 0, [levels]list{}
}
