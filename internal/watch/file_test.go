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

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// rig watches a real file in virtual time. Only sleeping advances that time; work
// on files takes none.
type rig struct {
	*testing.T
	path string
	stop func() // stops watching and waits for File to return

	mu      sync.Mutex // guards the fields below
	changes []string   // reported since the last call of want
	errors  []error    // reported
}

const delay = 10 * time.Second

// watched runs test with a rig whose file has the content "old".
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

// watch starts to watch the file, with the baseline "old".
func (r *rig) watch() {
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() { // returns when ctx ends
		defer close(done)
		File(ctx, r.path, Options{
			Baseline:   []byte("old"),
			Delay:      delay,
			Changed:    r.changed,
			Unreadable: r.unreadable,
		})
	}()
	r.stop = func() {
		cancel()
		<-done
	}
	r.pass(0)
}

func (r *rig) changed(content []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, string(content))
}

func (r *rig) unreadable(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, err)
}

// pass advances the time by d and waits until the polls in it have run.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// want checks which changes were reported since the last call.
func (r *rig) want(changes ...string) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.changes, changes) {
		r.Fatalf("reported %q, want %q", r.changes, changes)
	}
	r.changes = nil
}

// wantErrors checks how many errors were reported in total.
func (r *rig) wantErrors(times int) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errors) != times {
		r.Fatalf("%d errors reported, want %d: %v", len(r.errors), times, r.errors)
	}
}

// write writes the file in place.
func (r *rig) write(content string) {
	r.Helper()
	relaytest.Check(r, os.WriteFile(r.path, []byte(content), 0o600))
}

// replace writes a new file and renames it to the path.
func (r *rig) replace(content string) {
	r.Helper()
	relaytest.Check(r, os.WriteFile(r.path+".new", []byte(content), 0o600))
	relaytest.Check(r, os.Rename(r.path+".new", r.path))
}

// settled is longer than it takes to report any change.
const settled = delay + 2*DefaultInterval

func TestEdits(t *testing.T) {
	for name, edit := range map[string]func(r *rig, content string){
		"in place": (*rig).write,
		"renamed":  (*rig).replace,
		"deleted and created again": func(r *rig, content string) {
			relaytest.Check(r, os.Remove(r.path))
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
				r.wantErrors(0)
			})
		})
	}
}

// A change between reading the baseline and the first poll is reported.
func TestChangeBeforeFirstPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.write("new")
		r.watch()
		r.pass(settled)
		r.want("new")
		r.stop()
	})
}

// A symbolic link to the directory of the file is replaced, as Kubernetes does.
func TestSymlinkReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		dir := filepath.Dir(r.path)
		for _, content := range []string{"old", "new"} {
			relaytest.Check(r, os.Mkdir(filepath.Join(dir, content), 0o700))
			relaytest.Check(r, os.WriteFile(filepath.Join(dir, content, "config"), []byte(content), 0o600))
		}
		link := func(to, name string) {
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Skip("no symbolic links on this system: ", err)
			}
		}
		link("old", "data")
		link(filepath.Join("data", "config"), "config")
		r.watch()
		r.pass(settled)
		r.want()
		link("new", "data.new")
		relaytest.Check(r, os.Rename(filepath.Join(dir, "data.new"), filepath.Join(dir, "data")))
		r.pass(settled)
		r.want("new")
		r.stop()
	})
}

// A file written in several steps is reported once, a delay after the last step.
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

// A change that is undone within the delay is not reported.
func TestUndoneChange(t *testing.T) {
	watched(t, func(r *rig) {
		r.write("new")
		r.pass(delay / 2)
		r.write("old")
		r.pass(time.Minute)
		r.want()
	})
}

// A new modification time alone is not reported, and does not restart the delay
// of a change.
func TestTouch(t *testing.T) {
	watched(t, func(r *rig) {
		touch := func() {
			now := time.Now() // differs each time
			relaytest.Check(r, os.Chtimes(r.path, now, now))
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

// Even without a delay, content is reported only after two polls have seen it.
func TestNoDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		w := newWatcher(r.path, Options{Changed: r.changed})
		for _, content := range []string{"1", "2", "3"} {
			r.write(content)
			w.poll()
		}
		r.want()
		w.poll()
		r.want("3")
	})
}
