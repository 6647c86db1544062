package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"time"
)

// DefaultInterval is how often a file is looked at if its Options do not say.
const DefaultInterval = 500 * time.Millisecond

const (
	// fresh is how long after a change another one may leave the metadata as it
	// was: file systems keep times as coarse as two seconds.
	fresh = 2 * time.Second
	// readEvery is how often content is read whatever the metadata say: times can
	// be set back, and remote file systems keep old metadata for a while.
	readEvery = 10 * time.Second
)

// Options say what is a change of a file, and who is told.
type Options struct {
	Baseline []byte        // the content that is known already
	Interval time.Duration // between looks; DefaultInterval if 0
	Delay    time.Duration // how long new content must stay the same
	// Changed gets new content, once. File waits for it.
	Changed func(content []byte)
	// Trouble is told when the file has been unreadable for the Delay, and not
	// again until it was read. It may be nil.
	Trouble func(error)
}

// File watches a file until ctx ends. A change is one of content, compared with
// that of the last change: neither a touch is one, nor what is undone within
// the Delay, nor an absence.
func File(ctx context.Context, path string, opts Options) {
	w := newWatch(path, opts)
	interval := opts.Interval
	if interval <= 0 {
		interval = DefaultInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		w.look()
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// watch is what is known of a file. It belongs to the goroutine in File.
type watch struct {
	path  string
	opts  Options
	known sum       // of the content that was told of last
	seen  sum       // of the content at the last look
	since time.Time // it has been seen

	info os.FileInfo // when the content was read; nil if it could not be
	read time.Time

	lost time.Time // when the file became unreadable; zero if it is readable
	told bool      // of this episode
}

type sum [sha256.Size]byte

func newWatch(path string, opts Options) *watch {
	baseline := sha256.Sum256(opts.Baseline)
	return &watch{path: path, opts: opts, known: baseline, seen: baseline}
}

// look looks at the file once.
func (w *watch) look() {
	now := time.Now()
	var content []byte
	info, err := os.Stat(w.path)
	switch {
	case err != nil:
	case w.unchanged(info, now):
		return
	case !info.Mode().IsRegular():
		err = fmt.Errorf("read %s: not a regular file", w.path) // and might block for ever
	default:
		content, err = os.ReadFile(w.path)
	}
	if err != nil {
		w.trouble(now, err)
		return
	}
	w.lost, w.told = time.Time{}, false
	w.info, w.read = info, now

	if is := sha256.Sum256(content); is != w.seen {
		w.seen, w.since = is, now
	} else if is != w.known && now.Sub(w.since) >= w.opts.Delay {
		w.known = is
		w.opts.Changed(content)
	}
}

// unchanged says whether the file can't but have the content that was read
// last. While a change waits for its delay to end only reading will do.
func (w *watch) unchanged(info os.FileInfo, now time.Time) bool {
	return w.info != nil && w.seen == w.known &&
		os.SameFile(info, w.info) && info.Size() == w.info.Size() && info.ModTime().Equal(w.info.ModTime()) &&
		w.read.Sub(info.ModTime()) >= fresh && now.Sub(w.read) < readEvery
}

// trouble is called when the file can't be read. That ends the wait of a change
// too: it has to be seen, and to stay, anew.
func (w *watch) trouble(now time.Time, err error) {
	w.seen, w.info = w.known, nil
	switch {
	case w.lost.IsZero():
		w.lost = now
	case !w.told && now.Sub(w.lost) >= w.opts.Delay:
		w.told = true
		if w.opts.Trouble != nil {
			w.opts.Trouble(err)
		}
	}
}
