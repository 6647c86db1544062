package module

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/internal/watch"
)

// originalCommand is `caddy async-relay`, the command line of the program of
// that name.
func originalCommand() caddycmd.Command {
	return caddycmd.Command{
		Name:  "async-relay",
		Usage: "[-c <file>] [--log-level <level>] [--no-reload] [--reload-delay <seconds>]",
		Short: "Runs a configuration file of async-relay",
		Long: `
Runs a YAML file of async-relay, and follows its changes: once the file has kept
its new content for the delay, it is loaded as a reload is, which touches no
connection. A file that is not in order is told of in the log, and what ran
before goes on running.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Args = cobra.NoArgs
			flags := cmd.Flags()
			flags.StringP("config", "c", "config/config.yaml", "The configuration file")
			flags.String("log-level", "INFO", strings.Join(logLevels, ", "))
			flags.Bool("no-reload", false, "Do not follow changes of the file")
			flags.Float64("reload-delay", 10, "Seconds that a change must stay before it is loaded")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(runOriginal)
		},
	}
}

const maxReloadDelay = 24 * 60 * 60

var logLevels = []string{"DEBUG", "INFO", "WARNING", "ERROR"}

// runOriginal returns only with an error; a signal ends the process.
func runOriginal(flags caddycmd.Flags) (int, error) {
	delay := flags.Float64("reload-delay")
	if !(delay >= 0 && delay <= maxReloadDelay) { // so that NaN is refused, too
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--reload-delay: must be 0 to %d seconds, got %v", maxReloadDelay, delay)
	}
	o := &original{path: flags.String("config"), level: flags.String("log-level")}
	if !slices.Contains(logLevels, o.level) {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--log-level: must be one of %s, got %q", strings.Join(logLevels, ", "), o.level)
	}
	caddy.TrapSignals()
	caddy.SetLastConfig(o.path, "async-relay", o.reloadNow)
	content, err := os.ReadFile(o.path)
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("read the configuration file: %w", err)
	}
	if _, err := o.load(content); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if flags.Bool("no-reload") {
		select {}
	}
	watch.File(context.Background(), o.path, watch.Options{
		Baseline: content,
		Delay:    time.Duration(delay * float64(time.Second)),
		Changed:  func(content []byte) { _ = o.reload(content) },
		Unreadable: func(err error) {
			o.log().Error("config file cannot be read, the running config stays", zap.Error(err))
		},
	})
	return caddy.ExitCodeSuccess, nil
}

// original is a run of a configuration file of async-relay.
type original struct {
	path  string // set once
	level string // set once; as the command line has it

	mu     sync.Mutex // guards what follows, and is held while a config is loaded
	loaded []byte     // the config that was loaded last
}

// load puts the file's content into force, unless that says what the content
// before it said.
func (o *original) load(content []byte) (changed bool, err error) {
	config, warnings, err := caddyfile.Adapter{}.Adapt(content, map[string]any{"filename": o.path})
	if err != nil {
		return false, fmt.Errorf("%s: %w", o.path, err)
	}
	if config, err = withLogLevel(config, o.level); err != nil {
		return false, fmt.Errorf("%s: %w", o.path, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !bytes.Equal(config, o.loaded) {
		if err := caddy.Load(config, true); err != nil {
			return false, fmt.Errorf("%s: %w", o.path, err)
		}
		o.loaded, changed = config, true
	}
	o.warn(warnings)
	return changed, nil
}

// warn is for after the load: only then the log is at its level.
func (o *original) warn(warnings []caddyconfig.Warning) {
	for _, w := range warnings {
		o.log().Warn(w.Message, zap.String("file", w.File), zap.Int("line", w.Line), zap.String("field", w.Directive))
	}
}

// reload is load for a process that is running, and tells what came of it.
func (o *original) reload(content []byte) error {
	changed, err := o.load(content)
	switch {
	case err != nil:
		o.log().Error("config file not loaded, the running config stays", zap.Error(err))
	case changed:
		o.log().Info("config file reloaded", zap.String("file", o.path))
	default:
		o.log().Info("config file changed, its settings did not", zap.String("file", o.path))
	}
	return err
}

// reloadNow is what SIGUSR1 does. Caddy logs its error.
func (o *original) reloadNow(string, string) error {
	content, err := os.ReadFile(o.path)
	if err != nil {
		return fmt.Errorf("read the configuration file: %w", err)
	}
	_, err = o.load(content)
	return err
}

func (o *original) log() *zap.Logger { return processLog() }

// withLogLevel has a config log at a level of the original.
func withLogLevel(config []byte, level string) ([]byte, error) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(config, &whole); err != nil {
		return nil, err
	}
	whole["logging"] = caddyconfig.JSON(caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{Level: strings.TrimSuffix(level, "ING")}},
	}}, nil)
	return json.Marshal(whole)
}
