package listen

import "sync"

// Watcher watches sockets on a few goroutines.
type Watcher interface {
	// Watch calls readable on one of the goroutines while the socket fd has datagrams,
	// clients or an error, until stop is called. A Watcher of TCP sockets may call it on
	// several at once. stop must be called before fd is closed. More calls of readable
	// may follow.
	Watch(fd int, readable func()) (stop func(), err error)
}

// UDPWatcher is a Watcher of UDP sockets.
type UDPWatcher interface {
	Watcher
	// WatchBusy is Watch on goroutines that do nothing else.
	WatchBusy(fd int, readable func()) (stop func(), err error)
}

// watching is what a socket has that a [Watcher] watches.
type watching struct {
	mu      sync.Mutex // guards the fields below
	stop    func()     // stops the Watcher; nil: the socket is not watched
	wanted  bool       // the socket is to be watched: it is neither suspended nor closed
	readers int        // calls of readable that run
	quiet   *sync.Cond // of mu: the last one has ended; nil: nobody waits
}

// suspend stops the Watcher.
func (w *watching) suspend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted = false
	w.stopLocked()
}

// stopLocked stops the Watcher. readable may still be running.
func (w *watching) stopLocked() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// stopped reports whether the socket is not watched, and nothing reads it any more.
func (w *watching) stopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.wanted && w.readers == 0
}

// awaitStopped waits until nothing reads a socket that was suspended.
func (w *watching) awaitStopped() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.quiet == nil {
		w.quiet = sync.NewCond(&w.mu)
	}
	for w.readers > 0 {
		w.quiet.Wait()
	}
}

// begin reports whether readable may read the socket, beside at most others calls of it,
// and records that it does. The Watcher may call readable after it was stopped.
func (w *watching) begin(others int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.wanted || w.readers > others {
		return false
	}
	w.readers++
	return true
}

// end records that readable has ended. With a failure, the Watcher is stopped.
func (w *watching) end(failed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if failed {
		w.stopLocked()
	}
	if w.readers--; w.readers == 0 && w.quiet != nil {
		w.quiet.Broadcast()
	}
}
