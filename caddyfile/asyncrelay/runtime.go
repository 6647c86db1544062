package asyncrelay

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// RuntimeFile is the name of the file with the edits that were made in the page of
// async-relay, or in ours. It is in the directory of the main file.
const RuntimeFile = "config.runtime.yaml"

// The key that a runtime file has in addition to the settings, with the hash of the
// main file that was edited and with where the settings come from.
const (
	metaKey        = "_meta"
	metaHashKey    = "base_config_hash"
	metaSourceKey  = "source"
	MetaSourceEdit = "ui_modified" // the source of edited settings
	MetaSourceMain = "config.yaml" // the source of settings that async-relay copied from the main file
)

// Source holds the settings of a main file, as they are in that file or in the
// runtime file next to it.
type Source struct {
	Name    string // of the main file, as given
	Path    string // the same, but absolute
	Runtime string // the path of the runtime file, which need not exist
	Main    []byte // the content of the main file
	Text    []byte // the current settings: the content of the main or the runtime file
	Edited  bool   // Text is that of the runtime file

	// Notes tell whether a runtime file exists and is used.
	Notes []caddyconfig.Warning
}

// File returns the name of the file whose settings are current.
func (s Source) File() string {
	if s.Edited {
		return s.Runtime
	}
	return s.Name
}

// MainHash returns the hash of a main file as a runtime file has it.
func MainHash(main []byte) string {
	sum := sha256.Sum256(main)
	return hex.EncodeToString(sum[:])
}

// Hash identifies the settings of the main file together with the current ones. It
// leaves out secrets, because a short one could be found by trying all, and
// comments.
func (s Source) Hash() string {
	sum := sha256.New()
	for _, text := range [][]byte{s.Main, s.Text} {
		settings, _ := shownSettings(text) // nothing of a file that is no YAML
		sum.Write(settings)
		sum.Write([]byte{0})
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// MainSource returns the source of a main file's own settings.
func MainSource(filename string, main []byte) (Source, error) {
	path, err := filepath.Abs(filename)
	if err != nil {
		return Source{}, fmt.Errorf("path of the configuration file: %w", err)
	}
	target := path
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		target = resolved // as async-relay does
	}
	return Source{Name: filename, Path: path, Runtime: filepath.Join(filepath.Dir(target), RuntimeFile), Main: main, Text: main}, nil
}

// ReadSource returns the source for a main file with this content. The runtime file
// is active if it was made from exactly this content. It is not if the main file
// was edited since, or if its own settings have errors; then the main file is. The
// notes tell which.
func (a *Adapter) ReadSource(filename string, main []byte) (Source, error) {
	s, err := MainSource(filename, main)
	if err != nil {
		return s, err
	}
	text, err := os.ReadFile(s.Runtime)
	if errors.Is(err, fs.ErrNotExist) || filepath.Base(s.Path) == RuntimeFile {
		return s, nil
	}
	note := func(format string, args ...any) (Source, error) {
		s.Notes = append(s.Notes, caddyconfig.Warning{File: s.Runtime, Message: fmt.Sprintf(format, args...)})
		return s, nil
	}
	if err != nil {
		return note("runtime file ignored, using %s: %v", s.Name, err)
	}
	meta, err := readMeta(text)
	switch {
	case err != nil:
		return note("runtime file ignored, using %s: %v", s.Name, err)
	case meta.hash != MainHash(main) && meta.source == MetaSourceMain: // an old copy, without edits
		return s, nil
	case meta.hash != MainHash(main):
		return note("runtime file ignored: %s was edited since, and has precedence; the edits made in the page are not active", s.Name)
	}
	edited := s
	edited.Text, edited.Edited = text, true
	config, err := a.Settings(edited)
	if err != nil {
		return note("runtime file ignored, using %s: %v", s.Name, err)
	}
	if meta.source == MetaSourceMain { // a copy that async-relay made, unless it was edited since
		if own, err := a.Settings(s); err == nil && bytes.Equal(own, config) {
			return s, nil
		}
	}
	s = edited
	return note("runtime file active: the settings are the edits made in the page, not those of %s; delete the runtime file to discard them", s.Name)
}

// AdaptSource converts the settings of a source.
func (a *Adapter) AdaptSource(s Source) ([]byte, []caddyconfig.Warning, error) {
	return a.adapt(s.Text, s.File(), pageJSON{ConfigFile: s.Path, ConfigHash: s.Hash()})
}

// Settings is like AdaptSource, but its config does not depend on how the settings
// are written, so that settings can be compared.
func (a *Adapter) Settings(s Source) ([]byte, error) {
	config, _, err := a.adapt(s.Text, s.File(), pageJSON{ConfigFile: s.Path})
	return config, err
}

// meta is the key _meta of a runtime file.
type meta struct {
	hash, source string
}

func readMeta(text []byte) (m meta, err error) {
	rep := &report{}
	root := parseYAML(rep, text)
	if err := rep.err(); err != nil {
		return m, err
	}
	if root.Kind != mappingNode {
		return m, errors.New("it is not a mapping")
	}
	for _, p := range pairs(root) {
		if p.key != metaKey || p.val.Kind != mappingNode {
			continue
		}
		for _, p := range pairs(p.val) {
			switch p.key {
			case metaHashKey:
				m.hash = p.val.Value
			case metaSourceKey:
				m.source = p.val.Value
			}
		}
	}
	if m.hash == "" {
		return m, fmt.Errorf("it has no %s.%s", metaKey, metaHashKey)
	}
	return m, nil
}
