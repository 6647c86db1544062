package memory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Store is the part of a storage that a [Keeper] uses. Caddy's storages implement it.
type Store interface {
	Load(ctx context.Context, key string) ([]byte, error)
	Store(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
}

const (
	interval  = time.Second      // between two looks for a change, and between two writes
	stuck     = 5 * time.Second  // an operation of the storage that takes longer is reported
	maxPause  = 30 * time.Second // after failures
	heartbeat = 10               // a record that does not change is written that often within its age
)

var errNoAnswer = errors.New("the storage does not answer")

// Load returns the record of an earlier process, or nil if there is none. It waits at
// most until ctx ends, also for a storage that does not heed ctx.
func Load(ctx context.Context, store Store, key string, age time.Duration) (*Record, error) {
	type loaded struct {
		text []byte
		err  error
	}
	done := make(chan loaded, 1)
	go func() { // ends when the storage returns
		var l loaded
		l.err = recovered(func() (err error) {
			l.text, err = store.Load(ctx, key)
			return err
		})
		done <- l
	}()
	select {
	case <-ctx.Done():
		return nil, errNoAnswer
	case l := <-done:
		if errors.Is(l.err, fs.ErrNotExist) {
			return nil, nil
		}
		if l.err != nil {
			return nil, l.err
		}
		r, err := Decode(l.text)
		if err != nil {
			return nil, err
		}
		if old := r.Age(time.Now()); old > age {
			return nil, &TooOldError{old}
		}
		return r, nil
	}
}

// TooOldError is the error of a record that is older than allowed.
type TooOldError struct{ Age time.Duration }

func (e *TooOldError) Error() string {
	return fmt.Sprintf("it is %s old", e.Age.Round(time.Second))
}

// Config holds the settings of a [Keeper]. All fields are required unless they have a
// default.
type Config struct {
	Store  Store
	Key    string
	Writer Writer        // Started must have the monotonic clock
	Age    time.Duration // how old a record may be when it is used

	// Snapshot returns the current state, without Counts. The keeper adds the time and
	// the writer.
	Snapshot func() Record
	// Accepted reports whether the state is that of a config that runs. Until then,
	// nothing is written. Default: true.
	Accepted func() bool
	// Before is a keeper whose last write must end first. Default: none.
	Before *Keeper

	// Failed reports that the record could not be written, once per episode, and
	// Recovered that the next one was. They are called one at a time.
	Failed    func(error)
	Recovered func()
}

// Keeper writes the record of this process when it changes, at most once a second. No
// caller waits for the storage, except for [Keeper.Finish], which has a limit.
//
// A goroutine of its own makes each call of the storage. There is never more than one
// of them: if it hangs, nothing is written until it returns.
type Keeper struct {
	cfg    Config
	cancel context.CancelFunc // of run
	ended  chan struct{}      // closed when run and its last write have ended

	mu     sync.Mutex // guards the fields below
	paused bool
	frozen *Record // instead of snapshots; nil: none
	last   *Record // the final record, for run; nil: none
	forget bool    // delete the record at the end

	// The fields below are used by one write at a time.
	adopted    bool      // a record of an earlier process may be replaced no more
	rivalSaved string    // the time in the latest record of a process that has started later
	rivalSeen  time.Time // when that record was seen first; zero: none was
}

// inherit takes over what the keeper before this one, which has ended, knows of the
// record.
func (k *Keeper) inherit(before *Keeper) {
	if before.cfg.Key == k.cfg.Key {
		k.adopted, k.rivalSaved, k.rivalSeen = before.adopted, before.rivalSaved, before.rivalSeen
	}
}

// Keep returns a running keeper, which [Keeper.Stop], [Keeper.Finish] or
// [Keeper.Forget] ends.
func Keep(cfg Config) *Keeper {
	if cfg.Accepted == nil {
		cfg.Accepted = func() bool { return true }
	}
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{cfg: cfg, cancel: cancel, ended: make(chan struct{})}
	go k.run(ctx)
	return k
}

// Pause stops further writes until Resume. It does not wait for one that is running.
func (k *Keeper) Pause() { k.setPaused(true) }

// Resume ends Pause.
func (k *Keeper) Resume() { k.setPaused(false) }

func (k *Keeper) setPaused(paused bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.paused = paused
}

// Freeze makes the keeper write r instead of snapshots from now on, if it differs from
// what is written.
func (k *Keeper) Freeze(r Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.frozen = &r
}

// Stop ends the keeper. It does not wait, and the record stays as it is.
func (k *Keeper) Stop() { k.cancel() }

// Forget ends the keeper and deletes the record. It does not wait.
func (k *Keeper) Forget() {
	k.mu.Lock()
	k.forget = true
	k.mu.Unlock()
	k.cancel()
}

// Finish writes r as the last record and ends the keeper. It waits at most for limit.
// If the config was never accepted, nothing is written.
func (k *Keeper) Finish(r Record, limit time.Duration) {
	k.mu.Lock()
	k.last = &r
	k.mu.Unlock()
	k.cancel()
	select {
	case <-k.ended:
	case <-time.After(limit):
	}
}

// Key returns the key of the record.
func (k *Keeper) Key() string { return k.cfg.Key }

// writes is the state of run.
type writes struct {
	results  chan error // of the running write; nil: none runs
	began    time.Time
	reported bool              // a failure of this episode was reported
	pause    time.Duration     // after the latest failure; 0: it succeeded
	due      time.Time         // of the next write
	written  [sha256.Size]byte // fingerprint of the record in the storage
	writing  [sha256.Size]byte // of the record that is written
	at       time.Time         // of the latest write; zero: none
}

// run writes the record until ctx ends, and the last one then.
func (k *Keeper) run(ctx context.Context) {
	defer close(k.ended)
	if before := k.cfg.Before; before != nil {
		select {
		case <-before.ended:
			k.inherit(before)
		case <-time.After(stuck): // the old storage hangs
		}
		k.cfg.Before = nil // else it and its predecessors would stay in memory, with their configs
	}
	var w writes
	tick := time.NewTicker(interval)
	defer tick.Stop()
	accepted := false
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case err := <-w.results:
			k.end(&w, err)
		case now := <-tick.C:
			accepted = accepted || k.cfg.Accepted()
			if accepted {
				k.look(ctx, &w, now)
			}
		}
	}
	if !accepted && k.cfg.Accepted() {
		accepted = true
	}
	if w.results != nil {
		k.end(&w, <-w.results)
	}
	k.mu.Lock()
	last, forget := k.last, k.forget
	k.mu.Unlock()
	switch {
	case !accepted:
	case forget:
		err := k.delete()
		k.end(&w, err)
	case last != nil:
		k.end(&w, k.write(context.Background(), *last))
	}
}

// look begins a write if one is due. stopped ends when the keeper is ended.
func (k *Keeper) look(stopped context.Context, w *writes, now time.Time) {
	if w.results != nil {
		if now.Sub(w.began) > stuck {
			k.report(w, errNoAnswer)
		}
		return
	}
	k.mu.Lock()
	paused, frozen := k.paused, k.frozen
	k.mu.Unlock()
	if paused || now.Before(w.due) {
		return
	}
	var r Record
	if frozen != nil {
		r = *frozen
	} else {
		r = k.cfg.Snapshot()
	}
	mark := fingerprint(r)
	if mark == w.written && now.Sub(w.at) < k.cfg.Age/heartbeat {
		return
	}
	w.writing, w.began = mark, now
	w.results = make(chan error, 1)
	results := w.results
	go func() { results <- k.write(stopped, r) }() // ends when the storage returns
}

// end handles the result of a write.
func (k *Keeper) end(w *writes, err error) {
	now := time.Now()
	w.results = nil
	if err != nil {
		w.pause = min(max(2*w.pause, interval), maxPause)
		w.due = now.Add(w.pause)
		k.report(w, err)
		return
	}
	w.written, w.at, w.pause = w.writing, now, 0
	if w.reported {
		w.reported = false
		k.cfg.Recovered()
	}
}

func (k *Keeper) report(w *writes, err error) {
	if !w.reported {
		w.reported = true
		k.cfg.Failed(err)
	}
}

// recovered calls f. A panic of a storage module is an error.
func recovered(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("the storage panicked: %v", value)
		}
	}()
	return f()
}

// write writes a record unless another process uses it. A write that was delayed until
// stopped has ended does nothing: there may be a newer record.
func (k *Keeper) write(stopped context.Context, r Record) error {
	return recovered(func() error { return k.store(stopped, r) })
}

func (k *Keeper) store(stopped context.Context, r Record) error {
	ctx, cancel := context.WithTimeout(context.Background(), maxPause)
	defer cancel()
	if err := k.checkOwner(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil { // the storage did not heed it
		return errNoAnswer
	}
	if stopped.Err() != nil {
		return nil
	}
	r.SavedAt, r.Writer = time.Now().Round(0), k.writer()
	if err := k.cfg.Store.Store(ctx, k.cfg.Key, r.Encode()); err != nil {
		return err
	}
	k.adopted = true
	return nil
}

// writer returns this process. The time of its start is that of the current clock, which
// may have been set since.
func (k *Keeper) writer() Writer {
	w := k.cfg.Writer
	w.Started = time.Now().Add(-time.Since(w.Started)).Round(0)
	return w
}

// checkOwner returns an error if a process that has started later than this one writes
// the same record: this process was replaced, or another instance has the same name by
// mistake. The first write replaces any record, which is that of an earlier process.
// A record that the later process has not written again for two heartbeats may be
// replaced: that process has ended, because the record is its proof of life. There is no
// lock, which would be held for as long as the process runs, and which a killed process
// would leave behind.
func (k *Keeper) checkOwner(ctx context.Context) error {
	if !k.adopted {
		return nil
	}
	text, err := k.cfg.Store.Load(ctx, k.cfg.Key)
	if err != nil {
		return nil // there is none, or it cannot be read: Store tells
	}
	h, err := decodeHeader(text)
	us := k.writer()
	if err != nil || h.Writer.ID == us.ID || !h.Writer.Started.After(us.Started) {
		k.rivalSeen = time.Time{}
		return nil
	}
	if k.rivalSeen.IsZero() || string(h.SavedAt) != k.rivalSaved {
		k.rivalSaved, k.rivalSeen = string(h.SavedAt), time.Now()
	}
	if time.Since(k.rivalSeen) > 2*k.cfg.Age/heartbeat+2*maxPause {
		return nil
	}
	return fmt.Errorf("process %d on %s, which has started later, writes the same memory: give each instance a name of its own", h.Writer.PID, h.Writer.Host)
}

// delete deletes the record unless another process uses it.
func (k *Keeper) delete() error { return recovered(k.remove) }

func (k *Keeper) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), maxPause)
	defer cancel()
	if k.checkOwner(ctx) != nil {
		return nil
	}
	err := k.cfg.Store.Delete(ctx, k.cfg.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fingerprint returns a hash of what is worth a write: not of the times at which the
// snapshot was taken and answers were renewed, nor of the order in which a DNS server
// rotates them.
func fingerprint(r Record) [sha256.Size]byte {
	names := r.Names
	r.Names, r.Services, r.SavedAt = nil, maps.Clone(r.Services), time.Time{}
	for key, s := range r.Services {
		s.Targets = maps.Clone(s.Targets)
		for name, t := range s.Targets {
			s.Targets[name] = Targets{List: t.List}
		}
		r.Services[key] = s
	}
	hash := sha256.New()
	hash.Write(r.Encode())
	for _, key := range slices.Sorted(maps.Keys(names)) {
		for _, answer := range names[key] {
			addrs := slices.Clone(answer.Addrs)
			slices.SortFunc(addrs, netip.Addr.Compare)
			fmt.Fprintln(hash, key, answer.Host, addrs)
		}
	}
	return [sha256.Size]byte(hash.Sum(nil))
}
