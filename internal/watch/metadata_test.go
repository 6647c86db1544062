package watch

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// edit writes content in place, with metadata that tell of nothing.
func (r *rig) edit(content string, modified time.Time) {
	r.Helper()
	r.write(content)
	r.check(os.Chtimes(r.path, modified, modified))
}

// A file system may keep the time of a change that came right after a look: so
// soon after a change, the same metadata prove nothing.
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

// An old file is read every now and then only, but then whatever it says of
// itself.
func TestTimesSetBack(t *testing.T) {
	watched(t, func(r *rig) {
		modified := time.Now().Add(-time.Hour)
		r.edit("old", modified)
		r.pass(readEvery + DefaultInterval)
		w := newWatch(r.path, Options{Baseline: []byte("old")})
		w.look()
		read := w.read
		r.edit("new", modified)
		r.pass(readEvery - DefaultInterval)
		w.look()
		if w.read != read {
			t.Error("it was read, with no reason to")
		}
		r.want()
		r.pass(readEvery + settled)
		r.want("new")
	})
}

// Each of the metadata is reason enough to read an old file.
func TestReasonsToRead(t *testing.T) {
	for name, change := range map[string]func(r *rig, modified time.Time){
		"size": func(r *rig, modified time.Time) { r.edit("longer", modified) },
		"time": func(r *rig, modified time.Time) { r.edit("new", modified.Add(time.Second)) },
		"identity": func(r *rig, modified time.Time) {
			r.replace("new")
			r.check(os.Chtimes(r.path, modified, modified))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				modified := time.Now().Add(-time.Hour)
				r.edit("old", modified)
				w := newWatch(r.path, Options{Baseline: []byte("old")})
				w.look()
				read := w.read
				r.pass(DefaultInterval)
				w.look()
				if w.read != read {
					t.Error("it was read, with no reason to")
				}
				change(r, modified)
				w.look()
				if w.read == read {
					t.Error("it was not read")
				}
			})
		})
	}
}

// Trouble is told once an episode, if it is not over within the delay.
func TestTrouble(t *testing.T) {
	for name, lose := range map[string]func(r *rig){
		"deleted": func(r *rig) { r.check(os.Remove(r.path)) },
		"a directory in its place": func(r *rig) {
			r.check(os.Remove(r.path))
			r.check(os.Mkdir(r.path, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			watched(t, func(r *rig) {
				for episode := range 3 {
					lose(r)
					r.pass(delay - DefaultInterval)
					r.wantTrouble(episode)
					r.pass(time.Minute)
					r.wantTrouble(episode + 1)
					_ = os.Remove(r.path) // the directory
					r.write("old")
					r.pass(settled)
				}
				r.want()
			})
		})
	}
}

// What is no file is not read: a pipe would not give the reader back.
func TestNoFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.path = os.DevNull
		r.watch()
		r.pass(2 * settled)
		r.want()
		r.wantTrouble(1)
		r.stop()
	})
}

// An absence in the middle of a change has it wait anew, for all of its delay.
func TestAbsentWhileChanging(t *testing.T) {
	watched(t, func(r *rig) {
		r.write("new")
		r.pass(delay - DefaultInterval)
		r.check(os.Remove(r.path))
		r.pass(DefaultInterval)
		r.write("new")
		r.pass(delay - DefaultInterval)
		r.want()
		r.pass(settled)
		r.want("new")
	})
}
