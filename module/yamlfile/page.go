package yamlfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile/asyncrelay"
)

// Page is the access of one page of one config to the file that the config was made
// from.
type Page struct {
	file    *File
	ctx     context.Context    // of the config
	running *asyncrelay.Source // what the config was made from; nil: the files have other content
}

// Page returns the access for a page whose config was made from content with this
// hash. ctx ends with the config.
func (f *Files) Page(ctx context.Context, path, hash string) (*Page, error) {
	file, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	p := &Page{file: file, ctx: ctx}
	if s := file.loading.Load(); s != nil && s.Hash() == hash {
		p.running = s
	} else if s, err := file.read(); err == nil && s.Hash() == hash {
		p.running = &s
	}
	file.latest.Store(p)
	return p, nil
}

// live returns the page of the running config: p, or its successor if the config was
// replaced while a request waited.
func (p *Page) live() (*Page, error) {
	if p.ctx.Err() == nil {
		return p, nil
	}
	if latest := p.file.latest.Load(); latest.ctx.Err() == nil {
		return latest, nil
	}
	return nil, conflictf("the config was replaced while the request waited; read the settings again")
}

// Source returns what the config was made from. running is false if the files have
// other content by now; then that is returned.
func (p *Page) Source() (s asyncrelay.Source, running bool, err error) {
	if p.running != nil {
		return *p.running, true, nil
	}
	s, err = p.file.read()
	return s, false, err
}

// Edit replaces the settings by others, which are given as JSON. match reports whether
// the sender knows the current settings, by their hash. The error is of type
// [asyncrelay.Problems], [*RejectedError] or [*ConflictError], unless the machine has
// failed. Nothing has changed then. by is the operator, for the log.
func (p *Page) Edit(body []byte, match func(hash string) bool, by string) (asyncrelay.Source, []caddyconfig.Warning, error) {
	f := p.file
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := p.live()
	if err != nil {
		return asyncrelay.Source{}, nil, err
	}
	base, err := p.baseLocked()
	if err != nil {
		return asyncrelay.Source{}, nil, err
	}
	if !match(base.Hash()) {
		return asyncrelay.Source{}, nil, &ConflictError{Stale: true, Reason: "the settings have changed since they were read; read them again"}
	}
	edited, _, warnings, err := f.adapter.EditSource(base, body)
	if err != nil {
		return asyncrelay.Source{}, nil, err
	}
	saved, err := newSavedFile(edited.Runtime, edited.Text)
	if err != nil {
		return asyncrelay.Source{}, nil, conflictf("cannot save the edit: %v", err)
	}
	defer saved.discard()
	if _, _, err := f.loadLocked(edited, true); err != nil {
		return asyncrelay.Source{}, nil, err
	}
	if err := saved.keep(); err != nil { // a directory that was writable a moment ago
		if _, _, undo := f.loadLocked(base, true); undo != nil {
			err = errors.Join(err, undo)
		}
		return asyncrelay.Source{}, nil, conflictf("cannot save the edit: %v", err)
	}
	f.log().Info("config edited in the page", zap.String("remote", by), zap.String("file", edited.Runtime))
	return edited, warnings, nil
}

// baseLocked returns the source that an edit changes: the settings of the running
// config, with the current content of the main file.
func (p *Page) baseLocked() (asyncrelay.Source, error) {
	f := p.file
	if p.running == nil {
		return asyncrelay.Source{}, conflictf("the running config was not made from what %s contains now; reload it first", f.name)
	}
	base := *p.running
	main, err := os.ReadFile(f.name)
	if err != nil {
		return asyncrelay.Source{}, conflictf("the edit depends on the main file: %v", err)
	}
	if bytes.Equal(main, base.Main) {
		return base, nil
	}
	// Comments may have changed. An edit of the settings has precedence.
	before, err := asyncrelay.MainSource(f.name, base.Main)
	if err != nil {
		return asyncrelay.Source{}, err
	}
	now, err := asyncrelay.MainSource(f.name, main)
	if err != nil {
		return asyncrelay.Source{}, err
	}
	loaded, err := f.adapter.Settings(before)
	if err == nil {
		var current []byte
		if current, err = f.adapter.Settings(now); err == nil && bytes.Equal(loaded, current) {
			base.Main = main
			if !base.Edited {
				base.Text = main
			}
			return base, nil
		}
	}
	return asyncrelay.Source{}, conflictf("%s was edited and is not loaded yet; reload it first", f.name)
}

// Reload loads what the files contain now. If discard is set, the edits made in the
// page are discarded: the main file is loaded and the runtime file removed.
func (p *Page) Reload(discard bool, by string) (asyncrelay.Source, []caddyconfig.Warning, error) {
	f := p.file
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := p.live(); err != nil {
		return asyncrelay.Source{}, nil, err
	}
	source, err := f.read()
	if err == nil && discard {
		source, err = asyncrelay.MainSource(f.name, source.Main)
	}
	if err != nil {
		return asyncrelay.Source{}, nil, conflictf("%v", err)
	}
	warnings, _, err := f.loadLocked(source, true)
	if err != nil {
		return asyncrelay.Source{}, nil, err
	}
	if discard {
		if err := os.Remove(source.Runtime); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return asyncrelay.Source{}, nil, conflictf("loaded %s, but the edits will be back at the next start: %v", f.name, err)
		}
	}
	f.logWarnings(warnings)
	f.log().Info("config reloaded through the page", zap.String("remote", by), zap.String("file", source.File()))
	return source, warnings, nil
}

// savedFile is a file that is written and not in its place yet.
type savedFile struct {
	path string
	temp string // "": in its place
}

// newSavedFile writes a file that only its owner can read.
func newSavedFile(path string, text []byte) (*savedFile, error) {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	s := &savedFile{path, temp.Name()}
	_, err = temp.Write(text)
	if err == nil {
		err = temp.Sync()
	}
	if closing := temp.Close(); err == nil {
		err = closing
	}
	if err != nil {
		s.discard()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return s, nil
}

// keep puts the file in its place, where it replaces another one at once.
func (s *savedFile) keep() error {
	if err := os.Rename(s.temp, s.path); err != nil {
		return err
	}
	s.temp = ""
	if dir, err := os.Open(filepath.Dir(s.path)); err == nil { // so that the name survives a power failure
		_ = dir.Sync() // not possible on every system
		_ = dir.Close()
	}
	return nil
}

// discard removes the file unless it is in its place.
func (s *savedFile) discard() {
	if s.temp != "" {
		_ = os.Remove(s.temp)
	}
}
