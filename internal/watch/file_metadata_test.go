package watch

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// edit writes content in place and sets the modification time.
func (r *rig) edit(content string, modified time.Time) {
	r.Helper()
	r.write(content)
	relaytest.Check(r, os.Chtimes(r.path, modified, modified))
}

// Two modifications shortly after each other may get the same time. So unchanged
// metadata prove nothing soon after a modification.
func TestCoarseTimes(t *testing.T) {
	watched(t, func(r *rig) {
		modified := time.Now()
		r.edit("old", modified)
		r.pass(2 * DefaultInterval)
		r.edit("new", modified)
		r.pass(settled)
		r.want("new")
	})
}

// A file whose metadata do not change is still read once per readInterval.
func TestTimesSetBack(t *testing.T) {
	watched(t, func(r *rig) {
		modified := time.Now().Add(-time.Hour)
		r.edit("old", modified)
		r.pass(readInterval + DefaultInterval)
		w := newWatcher(r.path, Options{Baseline: []byte("old")})
		w.poll()
		read := w.readAt
		r.edit("new", modified)
		r.pass(readInterval - DefaultInterval)
		w.poll()
		if w.readAt != read {
			t.Error("the file was read without a reason")
		}
		r.want()
		r.pass(readInterval + settled)
		r.want("new")
	})
}

// A change of any of the metadata causes a read.
func TestMetadataChanges(t *testing.T) {
	for name, change := range map[string]func(r *rig, modified time.Time){
		"size": func(r *rig, modified time.Time) { r.edit("longer", modified) },
		"time": func(r *rig, modified time.Time) { r.edit("new", modified.Add(time.Second)) },
		"identity": func(r *rig, modified time.Time) {
			r.replace("new")
			relaytest.Check(r, os.Chtimes(r.path, modified, modified))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				modified := time.Now().Add(-time.Hour)
				r.edit("old", modified)
				w := newWatcher(r.path, Options{Baseline: []byte("old")})
				w.poll()
				read := w.readAt
				r.pass(DefaultInterval)
				w.poll()
				if w.readAt != read {
					t.Error("the file was read without a reason")
				}
				change(r, modified)
				w.poll()
				if w.readAt == read {
					t.Error("the file was not read")
				}
			})
		})
	}
}

// An unreadable file is reported once each time, after the delay.
func TestUnreadable(t *testing.T) {
	for name, lose := range map[string]func(r *rig){
		"deleted": func(r *rig) { relaytest.Check(r, os.Remove(r.path)) },
		"replaced by a directory": func(r *rig) {
			relaytest.Check(r, os.Remove(r.path))
			relaytest.Check(r, os.Mkdir(r.path, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			watched(t, func(r *rig) {
				for episode := range 3 {
					lose(r)
					r.pass(delay - DefaultInterval)
					r.wantErrors(episode)
					r.pass(time.Minute)
					r.wantErrors(episode + 1)
					_ = os.Remove(r.path) // removes the directory
					r.write("old")
					r.pass(settled)
				}
				r.want()
			})
		})
	}
}

// Only regular files are read: a read from a pipe could block for ever.
func TestNotARegularFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.path = os.DevNull
		r.watch()
		r.pass(2 * settled)
		r.want()
		r.wantErrors(1)
		r.stop()
	})
}

// If the file disappears during the delay of a change, the delay starts again.
func TestAbsentDuringDelay(t *testing.T) {
	watched(t, func(r *rig) {
		r.write("new")
		r.pass(delay - DefaultInterval)
		relaytest.Check(r, os.Remove(r.path))
		r.pass(DefaultInterval)
		r.write("new")
		r.pass(delay - DefaultInterval)
		r.want()
		r.pass(settled)
		r.want("new")
	})
}
