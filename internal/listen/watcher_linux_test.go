package listen

import (
	"sync"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// watcher is a Watcher of TCP and UDP sockets with two event loops, one of them for busy
// sockets.
type watcher struct {
	usual, busy *netio.Poller[func()]
	parallel    int // calls of readable at the same time
	// The sockets that each loop watches now.
	nowUsual, nowBusy atomic.Int32

	mu   sync.Mutex // guards errs
	errs []error    // of the first calls
}

func newWatcher() *watcher {
	newRun := func() (netio.Run[func()], error) { return watcherRun{}, nil }
	w := &watcher{usual: netio.NewPoller(1, nil, newRun), busy: netio.NewPoller(1, nil, newRun), parallel: 1}
	w.usual.StopWhenIdle()
	w.busy.StopWhenIdle()
	return w
}

// fail makes the next calls fail.
func (w *watcher) fail(errs ...error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = errs
}

func (w *watcher) Watch(fd int, readable func()) (stop func(), err error) {
	return w.watch(w.usual, &w.nowUsual, fd, readable)
}

func (w *watcher) WatchBusy(fd int, readable func()) (stop func(), err error) {
	return w.watch(w.busy, &w.nowBusy, fd, readable)
}

func (w *watcher) watch(p *netio.Poller[func()], now *atomic.Int32, fd int, readable func()) (stop func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) > 0 {
		err, w.errs = w.errs[0], w.errs[1:]
		return nil, err
	}
	leave, err := p.WatchUntil(func() { w.call(readable) }, fd, netio.Readable)
	if err != nil {
		return nil, err
	}
	now.Add(1)
	return func() {
		now.Add(-1)
		leave()
	}, nil
}

// call calls readable on w.parallel goroutines at the same time.
func (w *watcher) call(readable func()) {
	var others sync.WaitGroup
	for range w.parallel - 1 {
		others.Go(readable)
	}
	readable()
	others.Wait()
}

type watcherRun struct{}

func (watcherRun) Turn(ready []netio.Ready[func()]) {
	for _, r := range ready {
		r.Value()
	}
}

func (watcherRun) End() {}

// newWatched returns Sockets with a watcher.
func newWatched() (*Sockets, *watcher) {
	s := NewSockets()
	s.watchAll()
	return s, s.TCPWatcher.(*watcher)
}

// watchAll makes the sockets watched. It reports whether this system can do that.
func (s *Sockets) watchAll() bool {
	w := newWatcher()
	s.TCPWatcher, s.UDPWatcher = w, w
	return true
}
