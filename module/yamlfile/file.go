package yamlfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile/asyncrelay"
)

// Files holds the files of the process by path. So the loads of one file are
// serialized, whoever asks for them.
type Files struct {
	adapter *asyncrelay.Adapter
	log     func() *zap.Logger

	mu     sync.Mutex // guards byPath
	byPath map[string]*File
}

// NewFiles returns an empty Files. log returns the log to write to at the time of
// the call: each config that is loaded may change it.
func NewFiles(adapter *asyncrelay.Adapter, log func() *zap.Logger) *Files {
	return &Files{adapter: adapter, log: log, byPath: make(map[string]*File)}
}

// Open returns the file at a path, which need not exist. It reads nothing.
func (f *Files) Open(name string) (*File, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("path of the configuration file: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	file := f.byPath[path]
	if file == nil {
		file = &File{name: name, adapter: f.adapter, log: f.log}
		f.byPath[path] = file
	}
	return file, nil
}

// File is a main file with the runtime file next to it.
type File struct {
	name    string // as given
	adapter *asyncrelay.Adapter
	log     func() *zap.Logger

	// loading is the source of the config that File has just passed to Caddy. Its
	// page finds it there while the runtime file has not been written yet.
	loading atomic.Pointer[asyncrelay.Source]

	latest atomic.Pointer[Page] // the page of the config that was provisioned last

	mu     sync.Mutex // guards the fields below, and is held while a config is loaded
	finish Finish     // nil: none
	loaded []byte     // the settings that File loaded last, as a Caddy config
}

// Finish completes the Caddy config of a file before it is loaded.
type Finish func(config []byte) ([]byte, error)

// SetFinish sets how the configs of the file are completed from now on.
func (f *File) SetFinish(finish Finish) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finish = finish
}

// Load loads the file with this content of the main file. It reports whether the
// settings differ from the ones before; if not, there was nothing to load.
func (f *File) Load(main []byte) (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	source, err := f.adapter.ReadSource(f.name, main)
	if err != nil {
		return false, err
	}
	warnings, changed, err := f.loadLocked(source, false)
	if err != nil {
		return false, err
	}
	f.logWarnings(warnings)
	return changed, nil
}

// loadLocked loads the config of a source. Unless force is set, it does so only if the
// settings differ from those that were loaded last.
func (f *File) loadLocked(source asyncrelay.Source, force bool) (warnings []caddyconfig.Warning, changed bool, err error) {
	config, warnings, err := f.adapter.AdaptSource(source)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", source.File(), err)
	}
	warnings = append(source.Notes, warnings...)
	settings, err := f.adapter.Settings(source)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", source.File(), err)
	}
	if changed = !bytes.Equal(settings, f.loaded); !changed && !force {
		return warnings, false, nil
	}
	if f.finish != nil {
		if config, err = f.finish(config); err != nil {
			return nil, false, fmt.Errorf("%s: %w", source.File(), err)
		}
	}
	f.loading.Store(&source)
	defer f.loading.Store(nil)
	if err := caddy.Load(config, true); err != nil {
		return nil, false, &RejectedError{source.File(), err}
	}
	f.loaded = settings
	return warnings, changed, nil
}

// logWarnings logs the warnings of the adapter. It is called after the load,
// because the log has the level of the config only then.
func (f *File) logWarnings(warnings []caddyconfig.Warning) {
	for _, w := range warnings {
		f.log().Warn(w.Message, zap.String("file", w.File), zap.Int("line", w.Line), zap.String("field", w.Directive))
	}
}

// read returns what the files contain now.
func (f *File) read() (asyncrelay.Source, error) {
	main, err := os.ReadFile(f.name)
	if err != nil {
		return asyncrelay.Source{}, fmt.Errorf("read the configuration file: %w", err)
	}
	return f.adapter.ReadSource(f.name, main)
}
