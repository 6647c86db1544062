package module

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// LogWriter is a log writer that does not wait for another one. The relay's lines
// never wait for a writer. With LogWriter as the output of Caddy's default log,
// the lines of Caddy and of layer4 do not wait either, so that the admin API,
// reloads and the exit work while the log is not read.
type LogWriter struct {
	// The writer of the lines. Default: stderr.
	WriterRaw json.RawMessage `json:"writer,omitempty" caddy:"namespace=caddy.logging.writers inline_key=output"`

	to caddy.WriterOpener // set by Provision
}

// CaddyModule returns the Caddy module information.
func (*LogWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.relay_queue",
		New: func() caddy.Module { return new(LogWriter) },
	}
}

// Provision implements caddy.Provisioner.
func (w *LogWriter) Provision(ctx caddy.Context) error {
	w.to = caddy.StderrWriter{}
	if w.WriterRaw == nil {
		return nil
	}
	writer, err := ctx.LoadModule(w, "WriterRaw")
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	w.to = writer.(caddy.WriterOpener)
	return nil
}

// String implements caddy.WriterOpener.
func (w *LogWriter) String() string { return w.to.String() }

// WriterKey implements caddy.WriterOpener.
func (w *LogWriter) WriterKey() string { return "relay_queue:" + w.to.WriterKey() }

// OpenWriter implements caddy.WriterOpener.
func (w *LogWriter) OpenWriter() (io.WriteCloser, error) {
	to, err := w.to.OpenWriter()
	if err != nil {
		return nil, err
	}
	return logs.NewWriter(to, logDropped), nil
}

// UnmarshalCaddyfile sets up the writer from Caddyfile tokens:
//
//	output relay_queue [<output> ...]
//
// The arguments are those of the log option output.
func (w *LogWriter) UnmarshalCaddyfile(d *cfile.Dispenser) error {
	d.Next() // the name of this writer
	if !d.NextArg() {
		return nil
	}
	var to any
	name := d.Val()
	switch name {
	case "stderr":
		to = caddy.StderrWriter{}
	case "stdout":
		to = caddy.StdoutWriter{}
	default:
		var err error
		if to, err = cfile.UnmarshalModule(d, "caddy.logging.writers."+name); err != nil {
			return err
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	w.WriterRaw = caddyconfig.JSONModuleObject(to, "output", name, nil)
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner  = (*LogWriter)(nil)
	_ caddy.WriterOpener = (*LogWriter)(nil)
	_ cfile.Unmarshaler  = (*LogWriter)(nil)
)
