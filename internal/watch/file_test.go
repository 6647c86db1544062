package watch

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rig is a file that is watched in virtual time, which only a test's sleep
// moves on: work on real files takes none of it.
type rig struct {
	*testing.T
	path string
	stop func() // ends the watch and waits for it

	mu      sync.Mutex // guards what was told
	changes []string
	trouble []error
}

const delay = 10 * time.Second

// watched runs a test of a file that has the content "old".
func watched(t *testing.T, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.write("old")
		r.watch()
		test(r)
		r.stop()
	})
}

func newRig(t *testing.T) *rig {
	return &rig{T: t, path: filepath.Join(t.TempDir(), "config")}
}

func (r *rig) watch() {
	ctx, cancel := context.WithCancel(r.Context())
	over := make(chan struct{})
	go func() { // ends with ctx
		defer close(over)
		File(ctx, r.path, Options{
			Baseline: []byte("old"),
			Delay:    delay,
			Changed:  r.changed,
			Trouble:  r.troubled,
		})
	}()
	r.stop = func() {
		cancel()
		<-over
	}
	r.pass(0)
}

func (r *rig) changed(content []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, string(content))
}

func (r *rig) troubled(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble = append(r.trouble, err)
}

// pass lets time pass, and the looks in it.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// want checks which changes were told of since the last time.
func (r *rig) want(changes ...string) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.changes, changes) {
		r.Fatalf("told of %q, want %q", r.changes, changes)
	}
	r.changes = nil
}

// wantTrouble checks how often trouble was told of.
func (r *rig) wantTrouble(times int) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.trouble) != times {
		r.Fatalf("told of trouble %d times, want %d: %v", len(r.trouble), times, r.trouble)
	}
}

func (r *rig) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// write writes in place.
func (r *rig) write(content string) {
	r.Helper()
	r.check(os.WriteFile(r.path, []byte(content), 0o600))
}

// replace writes a new file and gives it the name.
func (r *rig) replace(content string) {
	r.Helper()
	r.check(os.WriteFile(r.path+".new", []byte(content), 0o600))
	r.check(os.Rename(r.path+".new", r.path))
}

// settled is longer than any change takes to be told of.
const settled = delay + 2*DefaultInterval

func TestEdits(t *testing.T) {
	for name, edit := range map[string]func(r *rig, content string){
		"in place": (*rig).write,
		"renamed":  (*rig).replace,
		"deleted and made again": func(r *rig, content string) {
			r.check(os.Remove(r.path))
			r.pass(time.Second)
			r.write(content)
		},
	} {
		t.Run(name, func(t *testing.T) {
			watched(t, func(r *rig) {
				r.pass(time.Minute)
				r.want()
				edit(r, "new")
				r.pass(delay - DefaultInterval)
				r.want()
				r.pass(3 * DefaultInterval)
				r.want("new")
				edit(r, "old")
				r.pass(settled)
				r.want("old")
				r.pass(time.Minute)
				r.want()
				r.wantTrouble(0)
			})
		})
	}
}

// A change between the load of the baseline and the first look is one.
func TestChangedBeforeTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.write("new")
		r.watch()
		r.pass(settled)
		r.want("new")
		r.stop()
	})
}

// Kubernetes swaps a link to a directory on the way to the file.
func TestLinkSwapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		dir := filepath.Dir(r.path)
		for _, content := range []string{"old", "new"} {
			r.check(os.Mkdir(filepath.Join(dir, content), 0o700))
			r.check(os.WriteFile(filepath.Join(dir, content, "config"), []byte(content), 0o600))
		}
		link := func(to, name string) {
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Skip("no links here: ", err)
			}
		}
		link("old", "data")
		link(filepath.Join("data", "config"), "config")
		r.watch()
		r.pass(settled)
		r.want()
		link("new", "data.new")
		r.check(os.Rename(filepath.Join(dir, "data.new"), filepath.Join(dir, "data")))
		r.pass(settled)
		r.want("new")
		r.stop()
	})
}

// A file that is written bit by bit is one change, a delay after the last bit.
func TestPartialWrites(t *testing.T) {
	watched(t, func(r *rig) {
		for n := range 10 {
			r.write(strings.Repeat("new ", n))
			r.pass(delay - DefaultInterval)
		}
		r.want()
		r.pass(settled)
		r.want(strings.Repeat("new ", 9))
	})
}

func TestUndone(t *testing.T) {
	watched(t, func(r *rig) {
		r.write("new")
		r.pass(delay / 2)
		r.write("old")
		r.pass(time.Minute)
		r.want()
	})
}

// A touch changes nothing, and does not keep a change waiting.
func TestTouch(t *testing.T) {
	watched(t, func(r *rig) {
		touch := func() {
			now := time.Now() // another one each time
			r.check(os.Chtimes(r.path, now, now))
			r.pass(time.Second)
		}
		touch()
		r.pass(settled)
		r.want()
		r.write("new")
		for range 11 {
			touch()
		}
		r.want("new")
	})
}

// Content must be seen twice to be told of, even without a delay.
func TestNoDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		w := newWatch(r.path, Options{Changed: r.changed})
		for _, content := range []string{"1", "2", "3"} {
			r.write(content)
			w.look()
		}
		r.want()
		w.look()
		r.want("3")
	})
}
