package module

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.uber.org/zap"
)

// This file keeps the lines of Caddy and layer4 from waiting for a stderr or stdout
// that is not read. Caddy opens a log writer once, and shares it by its key between
// all logs and configs. So `caddy run` opens writers under the keys of stderr and
// stdout before Caddy opens any log. They write directly until a config has a
// relay. From then on they do not wait.

// stdStream is the log writer of stderr or stdout. It is not meant for configs.
type stdStream struct {
	Stream string `json:"stream"` // "stderr" or "stdout"

	to caddy.WriterOpener // set by Provision
}

// CaddyModule returns the Caddy module information.
func (stdStream) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.relay_std_stream",
		New: func() caddy.Module { return new(stdStream) },
	}
}

// Provision implements caddy.Provisioner.
func (s *stdStream) Provision(caddy.Context) error {
	switch s.Stream {
	case "stderr":
		s.to = caddy.StderrWriter{}
	case "stdout":
		s.to = caddy.StdoutWriter{}
	default:
		return fmt.Errorf("unknown stream %q, use stderr or stdout", s.Stream)
	}
	return nil
}

// String implements caddy.WriterOpener.
func (s *stdStream) String() string { return s.to.String() }

// WriterKey implements caddy.WriterOpener. It is the key of Caddy's own writer, so
// that this one replaces it.
func (s *stdStream) WriterKey() string { return s.to.WriterKey() }

// OpenWriter implements caddy.WriterOpener.
func (s *stdStream) OpenWriter() (io.WriteCloser, error) {
	direct, err := s.to.OpenWriter()
	if err != nil {
		return nil, err
	}
	return &stdWriter{WriteCloser: direct, queued: logs.NewWriter(direct, logDropped)}, nil
}

// stdWriter writes to stderr or stdout.
type stdWriter struct {
	io.WriteCloser // waits for the reader
	queued         io.Writer
}

// queueStd makes each stdWriter use its queue. It is set by the first config with a
// relay.
var queueStd atomic.Bool

// Write implements io.Writer.
func (w *stdWriter) Write(line []byte) (int, error) {
	if queueStd.Load() {
		return w.queued.Write(line)
	}
	return w.WriteCloser.Write(line)
}

// openStdStreams opens the writers of stderr and stdout if this process is
// `caddy run`. It must be called before Caddy opens a log. Terminals keep their
// own writers, because Caddy chooses the format of its first lines by the type of
// the writer.
func openStdStreams() {
	if len(os.Args) < 2 || os.Args[1] != "run" {
		return
	}
	opened := make(map[string]*caddy.CustomLog)
	for name, file := range map[string]*os.File{"stderr": os.Stderr, "stdout": os.Stdout} {
		if stat, err := file.Stat(); err != nil || stat.Mode()&os.ModeCharDevice != 0 {
			continue
		}
		log := "stream " + name
		if name == "stderr" {
			log = caddy.DefaultLoggerName
		}
		opened[log] = &caddy.CustomLog{BaseLog: caddy.BaseLog{WriterRaw: stdWriterConfig(name)}}
	}
	if len(opened) == 0 {
		return
	}
	// The context is never ended, so the writers stay open.
	if _, err := caddy.ProvisionContext(&caddy.Config{Logging: &caddy.Logging{Logs: opened}}); err != nil {
		caddy.Log().Warn("logs may wait for stderr and stdout", zap.Error(err))
	}
}

func stdWriterConfig(stream string) json.RawMessage {
	return caddyconfig.JSONModuleObject(stdStream{Stream: stream}, "output", "relay_std_stream", nil)
}

// logDropped logs that lines were dropped while a log was not read.
func logDropped(dropped uint64) {
	processLog().Warn("log lines dropped", zap.Uint64("count", dropped))
}

// Interface guards.
var (
	_ caddy.Provisioner  = (*stdStream)(nil)
	_ caddy.WriterOpener = (*stdStream)(nil)
)
