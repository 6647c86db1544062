package listen

import "sync"

// Watcher watches sockets on a few goroutines.
type Watcher interface {
	// Watch calls readable on one of the goroutines while the socket fd has clients,
	// datagrams or an error: again and again until readable has consumed them, or stop
	// is called. A Watcher of TCP sockets may call it on several goroutines at once. stop
	// must be called once, before fd is closed. Calls of readable may still be running
	// then, and more may follow.
	Watch(fd int, readable func()) (stop func(), err error)
}

// UDPWatcher is a Watcher of UDP sockets.
type UDPWatcher interface {
	Watcher
	// WatchBusy is like Watch, on goroutines that serve only sockets watched by it.
	WatchBusy(fd int, readable func()) (stop func(), err error)
}

// watching is the state of a socket that a [Watcher] may watch.
//
// Each call of readable is between begin and end. Once a socket is suspended, begin
// returns false, and stopped reports whether the calls that have begun have ended.
//
// Invariant: stop is nil if wanted is false, so no call of readable ends without having
// consumed what it was called for, which would make the Watcher call it in a busy loop.
type watching struct {
	mu      sync.Mutex // guards the fields below
	stop    func()     // stops the Watcher; nil: the socket is not watched
	wanted  bool       // the socket is to be watched: it is neither suspended nor closed
	readers int        // calls of readable that have begun
	quiet   *sync.Cond // of mu: readers is 0; nil unless a goroutine waits for that
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

// stopped reports whether the socket is suspended and no call of readable is running.
func (w *watching) stopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.wanted && w.readers == 0
}

// awaitStopped waits until no call of readable is running.
//
// Precondition: the socket is suspended for good, so no more calls begin.
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

// begin reports whether a call of readable may use the socket, and records that it does.
// It may not if the socket is suspended, or if more than others calls are running.
func (w *watching) begin(others int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.wanted || w.readers > others {
		return false
	}
	w.readers++
	return true
}

// end records that a call of readable has ended. If stop is true, it stops the Watcher.
func (w *watching) end(stop bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stop {
		w.stopLocked()
	}
	if w.readers--; w.readers == 0 && w.quiet != nil {
		w.quiet.Broadcast()
	}
}
