package logqueue

import (
	"io"
	"sync"
	"time"
)

const (
	// maxWaitingBytes bounds the lines that wait for a [Writer].
	maxWaitingBytes = 1 << 20
	// patience is how long a write waits for its line to be written. If it is not,
	// the writes after it do not wait until all lines are written.
	patience = 100 * time.Millisecond
)

// Writer writes lines to another writer, which may block. As long as that one does
// not block, each line is written when Write returns, so that none is lost at the
// end of the process. A line that finds too many others waiting is dropped.
type Writer struct {
	queues  *Queues // set once, as are to and resumed
	to      io.WriteCloser
	resumed func(dropped uint64)

	mu       sync.Mutex // guards the fields below
	waiting  []*write
	size     int    // bytes in waiting
	writing  bool   // the goroutine runs
	blocked  bool   // a line was not written in time, and not all lines are written since
	unlogged uint64 // dropped lines that resumed was not called for
}

// write is a line to be written.
type write struct {
	line []byte
	err  error
	done chan struct{} // closed when the line is written, and err is set
}

// NewWriter returns a Writer. It counts dropped lines with those of the queues. It
// calls resumed with their number when all lines that waited are written.
func (q *Queues) NewWriter(to io.WriteCloser, resumed func(dropped uint64)) *Writer {
	return &Writer{queues: q, to: to, resumed: resumed}
}

// Write implements io.Writer.
func (w *Writer) Write(line []byte) (int, error) {
	added := &write{line: append([]byte(nil), line...), done: make(chan struct{})}
	if !w.add(added) {
		return len(line), nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-added.done:
		if added.err != nil {
			return 0, added.err
		}
	case <-timer.C:
		w.mu.Lock()
		w.blocked = w.writing
		w.mu.Unlock()
	}
	return len(line), nil
}

// add adds a line, or drops it. It reports whether the caller is to wait until it
// is written.
func (w *Writer) add(added *write) (wait bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.size+len(added.line) > maxWaitingBytes {
		w.unlogged++
		w.queues.dropped.Add(1)
		return false
	}
	w.waiting = append(w.waiting, added)
	w.size += len(added.line)
	if !w.writing {
		w.writing = true
		go w.write() // ends when no line waits
	}
	return !w.blocked
}

// write writes lines until none waits.
func (w *Writer) write() {
	for {
		lines, dropped := w.next()
		if dropped > 0 {
			w.resumed(dropped)
		}
		if len(lines) == 0 && dropped == 0 {
			return
		}
		for _, l := range lines {
			_, l.err = w.to.Write(l.line)
			w.mu.Lock()
			w.size -= len(l.line)
			w.mu.Unlock()
			close(l.done)
		}
	}
}

// next returns the waiting lines or, if there are none, the number of dropped
// lines. If there are neither, the goroutine is to end.
func (w *Writer) next() (lines []*write, dropped uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines, w.waiting = w.waiting, nil
	if len(lines) == 0 {
		w.blocked = false
		dropped, w.unlogged = w.unlogged, 0
		w.writing = dropped > 0
	}
	return lines, dropped
}

// Close closes the other writer. Each line that it does not block on is written
// before.
func (w *Writer) Close() error { return w.to.Close() }
