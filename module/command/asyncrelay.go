package command

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/version"
	"github.com/async-relay/caddy-relay/internal/watch"
	"github.com/async-relay/caddy-relay/module/yamlfile"
)

// AsyncRelay returns the command `caddy async-relay`, which has the command line
// of the program async-relay. files are the files of the process. log returns the log
// to write to at the time of the call: each config that is loaded may change it.
func AsyncRelay(files *yamlfile.Files, log func() *zap.Logger) caddycmd.Command {
	return caddycmd.Command{
		Name:  "async-relay",
		Usage: "[-c <file>] [--log-level <level>] [--no-reload] [--reload-delay <seconds>]",
		Short: "Runs a configuration file of async-relay",
		Long: `
Runs a YAML file of async-relay and follows its changes. Once the file has kept
its new content for the delay, the command loads it. Like any reload, this
interrupts no connection. Errors in the file are logged; the previous config
stays.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Version = version.Get().String()
			cmd.SetVersionTemplate("{{.Version}}\n")
			cmd.Args = oneConfigFlag
			cmd.SetFlagErrorFunc(explainFlag)
			flags := cmd.Flags()
			flags.StringP("config", "c", "config/config.yaml", "The configuration file")
			flags.String("log-level", "INFO", strings.Join(logLevels, ", "))
			flags.Bool("no-reload", false, "Do not follow changes of the file")
			flags.Float64("reload-delay", 10, "Seconds that a change must stay before it is loaded")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
				return runAsyncRelay(flags, files, log)
			})
		},
	}
}

const maxReloadDelay = 24 * 60 * 60

var logLevels = []string{"DEBUG", "INFO", "WARNING", "ERROR"}

// runAsyncRelay returns only if it fails at the start. Afterwards it runs until
// a signal ends the process.
func runAsyncRelay(flags caddycmd.Flags, files *yamlfile.Files, log func() *zap.Logger) (int, error) {
	delay := flags.Float64("reload-delay")
	if !(delay >= 0 && delay <= maxReloadDelay) { // also true for NaN
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--reload-delay: must be 0 to %d seconds, got %v", maxReloadDelay, delay)
	}
	level := flags.String("log-level")
	if !slices.Contains(logLevels, level) {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--log-level: must be one of %s, got %q", strings.Join(logLevels, ", "), level)
	}
	f := &configFile{path: flags.String("config"), log: log}
	var err error
	if f.File, err = files.Open(f.path); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	f.SetFinish(func(config []byte) ([]byte, error) { return withProcessSettings(config, level) })
	caddy.TrapSignals()
	limitMemory()
	caddy.SetLastConfig(f.path, "async-relay", f.reloadOnSignal)
	content, err := os.ReadFile(f.path)
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("read the configuration file: %w", err)
	}
	if _, err := f.Load(content); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if flags.Bool("no-reload") {
		select {}
	}
	watch.File(context.Background(), f.path, watch.Options{
		Baseline: content,
		Delay:    time.Duration(delay * float64(time.Second)),
		Changed:  f.reload,
		Unreadable: func(err error) {
			log().Error("config file unreadable, keeping the running config", zap.Error(err))
		},
	})
	return caddy.ExitCodeSuccess, nil
}

// configFile is the configuration file of a running `caddy async-relay`.
type configFile struct {
	*yamlfile.File
	path string
	log  func() *zap.Logger
}

// reload loads the content of the file into a running process and logs the
// result.
func (f *configFile) reload(content []byte) {
	changed, err := f.Load(content)
	switch {
	case err != nil:
		f.log().Error("config file rejected, keeping the running config", zap.Error(err))
	case changed:
		f.log().Info("config file reloaded", zap.String("file", f.path))
	default:
		f.log().Info("config file changed, settings unchanged", zap.String("file", f.path))
	}
}

// reloadOnSignal reads and loads the file on SIGUSR1. Caddy logs its error.
func (f *configFile) reloadOnSignal(string, string) error {
	content, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("read the configuration file: %w", err)
	}
	_, err = f.Load(content)
	return err
}

// withProcessSettings returns the Caddy config with the default log at a log level
// of async-relay. Caddy does not save that config as autosave.json, because the file
// is the only source of the settings. A log that is not read does not stop the
// process.
func withProcessSettings(config []byte, level string) ([]byte, error) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(config, &whole); err != nil {
		return nil, err
	}
	persist := false
	log := caddy.BaseLog{Level: strings.TrimSuffix(level, "ING")}
	if !isTerminal(os.Stderr) { // for which Caddy has a format of its own
		log.WriterRaw = caddyconfig.JSON(map[string]string{"output": "relay_queue"}, nil)
	}
	whole["admin"] = caddyconfig.JSON(caddy.AdminConfig{Config: &caddy.ConfigSettings{Persist: &persist}}, nil)
	whole["logging"] = caddyconfig.JSON(caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: log}}}, nil)
	return json.Marshal(whole)
}

// isTerminal reports whether a file is a terminal or another character device.
func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
