package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"time"
)

// DefaultInterval is the polling interval of [Options] without one.
const DefaultInterval = 500 * time.Millisecond

const (
	// racyPeriod is the time after a modification during which another one may
	// leave the metadata unchanged: some file systems store times with a
	// resolution of two seconds.
	racyPeriod = 2 * time.Second
	// readInterval is the longest time between two reads of the content, even if
	// the metadata do not change: times can be set back, and remote file systems
	// may serve old metadata for a while.
	readInterval = 10 * time.Second
)

// Options configures [File].
type Options struct {
	Baseline []byte        // the content that the caller has already read
	Interval time.Duration // between polls; 0: DefaultInterval
	Delay    time.Duration // how long new content must stay unchanged before it is reported

	// Changed receives each new content once. File does not poll while it runs.
	Changed func(content []byte)

	// Unreadable, if set, receives the error once the file has been unreadable for
	// the Delay. It is called again only after the file was readable in between.
	Unreadable func(error)
}

// File watches a file until ctx ends. It compares the content with that of the
// last reported change, at first with the baseline. It reports nothing if only
// the file's times change, if new content is undone within the Delay, or if the
// file disappears and returns with the old content.
func File(ctx context.Context, path string, opts Options) {
	w := newWatcher(path, opts)
	interval := opts.Interval
	if interval <= 0 {
		interval = DefaultInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		w.poll()
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// watcher holds the state of a watched file. Only the goroutine in File uses it.
type watcher struct {
	path string
	opts Options

	reported checksum  // of the last reported content
	seen     checksum  // of the content at the last poll
	since    time.Time // when that content was first seen

	info   os.FileInfo // at the last read; nil if that failed
	readAt time.Time

	unreadableSince time.Time // zero while the file is readable
	errorReported   bool      // since unreadableSince
}

type checksum [sha256.Size]byte

func newWatcher(path string, opts Options) *watcher {
	baseline := sha256.Sum256(opts.Baseline)
	return &watcher{path: path, opts: opts, reported: baseline, seen: baseline}
}

// poll checks the file once.
func (w *watcher) poll() {
	now := time.Now()
	var content []byte
	info, err := os.Stat(w.path)
	switch {
	case err != nil:
	case w.unchanged(info, now):
		return
	case !info.Mode().IsRegular():
		err = fmt.Errorf("read %s: not a regular file", w.path) // reading a pipe could block for ever
	default:
		content, err = os.ReadFile(w.path)
	}
	if err != nil {
		w.unreadable(now, err)
		return
	}
	w.unreadableSince, w.errorReported = time.Time{}, false
	w.info, w.readAt = info, now

	if sum := sha256.Sum256(content); sum != w.seen {
		w.seen, w.since = sum, now
	} else if sum != w.reported && now.Sub(w.since) >= w.opts.Delay {
		w.reported = sum
		w.opts.Changed(content)
	}
}

// unchanged reports whether the metadata prove that the file has the content
// that was read last. It returns false while a change waits for its Delay,
// because only the content shows whether that change lasts.
func (w *watcher) unchanged(info os.FileInfo, now time.Time) bool {
	return w.info != nil && w.seen == w.reported &&
		os.SameFile(info, w.info) && info.Size() == w.info.Size() && info.ModTime().Equal(w.info.ModTime()) &&
		w.readAt.Sub(info.ModTime()) >= racyPeriod && now.Sub(w.readAt) < readInterval
}

// unreadable records that the file could not be read, and reports it after the
// Delay. A change that waits for its Delay starts again from the beginning.
func (w *watcher) unreadable(now time.Time, err error) {
	w.seen, w.info = w.reported, nil
	switch {
	case w.unreadableSince.IsZero():
		w.unreadableSince = now
	case !w.errorReported && now.Sub(w.unreadableSince) >= w.opts.Delay:
		w.errorReported = true
		if w.opts.Unreadable != nil {
			w.opts.Unreadable(err)
		}
	}
}
