package command

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/async-relay/caddy-relay/module/api"
)

// printer writes responses of the admin API for people. Its tables fit in 100
// columns unless names are long.
type printer struct {
	table *tabwriter.Writer
	now   time.Time
}

func newPrinter(out io.Writer) *printer {
	return &printer{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), time.Now()}
}

// flush writes what is buffered. It returns the first write error, if any.
func (p *printer) flush() error { return p.table.Flush() }

// line writes a line that is not part of a table.
func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p.table, format+"\n", args...)
}

// row writes a line of a table.
func (p *printer) row(cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(p.table, "\t")
		}
		fmt.Fprint(p.table, cell)
	}
	fmt.Fprintln(p.table)
}

// services writes a heading and the backends of each service.
func (p *printer) services(all ...api.Service) {
	if len(all) == 0 {
		p.line("no services")
	}
	for i, s := range all {
		if i > 0 {
			p.line("")
		}
		p.line("%s: %s, %d served%s", s.Name, s.Active, s.Totals.Connections, remarks(s))
		p.backends(s.Backends)
		if !s.HeldTill.IsZero() {
			p.hold(s)
		}
	}
}

// remarks returns what the heading of a service adds if the service has refused
// clients or left the config.
func remarks(s api.Service) string {
	var b strings.Builder
	var refused uint64
	for _, n := range s.Refused {
		refused += n
	}
	if refused > 0 {
		fmt.Fprintf(&b, ", %d refused", refused)
	}
	if s.Held > 0 {
		fmt.Fprintf(&b, ", %d held", s.Held)
	}
	if s.Removed {
		b.WriteString(", removed from the config")
	}
	return b.String()
}

// hold writes whether a service is held, and how many clients wait.
func (p *printer) hold(s api.Service) {
	if s.HeldTill.IsZero() {
		p.line("%s: new clients are served", s.Name)
		return
	}
	p.line("%s: new clients wait for %s, %d held", s.Name, formatSpan(s.HeldTill.Sub(p.now)), s.Held)
}

// backends writes a table of backends. Below it, it writes one line for each
// backend that is not up.
func (p *printer) backends(all []api.Backend) {
	p.row("#", "CONF", "BACKEND", "STATE", "ACTIVE", "SERVED", "FAILED", "UP", "DOWN", "CONNECT")
	for _, b := range all {
		connect := "-"
		if b.Connect.P50 > 0 {
			connect = formatMilliseconds(b.Connect.P50)
		}
		p.row(formatPosition(b.Position), formatPosition(b.Configured), b.Address, b.State, b.Active.TCP+b.Active.UDP,
			b.Totals.Connections, b.Totals.Failures, formatBytes(b.Totals.BytesUp), formatBytes(b.Totals.BytesDown), connect)
	}
	for _, b := range all {
		if b.Drill != "" {
			p.line("%s: drill, it seems to %s", b.Address, drilled(b.Drill))
		}
		for _, name := range []string{"tcp", "udp"} {
			if b.Networks[name].Suspect {
				p.line("%s: suspect on %s, another node has demoted it and the next client tries it briefly", b.Address, name)
			}
		}
		if b.State != api.StateUp && b.State != api.StateRemoved {
			p.line("%s: %s", b.Address, p.trouble(b))
		}
	}
}

// trouble describes the state of a backend that is not up, and its last failure.
func (p *printer) trouble(b api.Backend) string {
	var parts []string
	for _, name := range []string{"tcp", "udp"} {
		n := b.Networks[name]
		text := fmt.Sprintf("%s %s", name, n.State)
		switch n.State {
		case api.StateCooling:
			text += fmt.Sprintf(" for another %s, down for %s", formatSpan(n.Cooling.Sub(p.now)), formatSpan(p.now.Sub(n.DownSince)))
		case api.StateDown:
			text += " for " + formatSpan(p.now.Sub(n.DownSince))
		}
		if n.ByCheck {
			text += ", until a health check passes"
		}
		parts = append(parts, text)
	}
	if b.State == api.StateDraining {
		parts = []string{"no new clients, " + b.Active.String()}
	}
	if f := b.Failure; f != nil {
		parts = append(parts, fmt.Sprintf("last failure %s ago: %s", formatSpan(p.now.Sub(f.At)), f.Error))
	}
	return strings.Join(parts, "; ")
}

// fleet writes the nodes of a fleet.
func (p *printer) fleet(f api.Fleet) {
	p.line("fleet %s, this is node %s", f.Name, f.Node)
	if f.Storage.Error != "" {
		p.line("storage unavailable for %s, this node continues alone: %s", formatSpan(time.Duration(f.Storage.FailingFor*float64(time.Second))), f.Storage.Error)
	}
	if len(f.Nodes) == 0 {
		p.line("no other nodes")
		return
	}
	p.row("NODE", "SEEN", "DOWN")
	for _, n := range f.Nodes {
		seen := formatSpan(n.AgeSpan()) + " ago"
		if n.Vanished {
			seen += ", vanished"
		}
		var down []string
		for _, d := range n.Down {
			down = append(down, fmt.Sprintf("%s %s %s", d.Service, d.Backend, d.Network))
		}
		p.row(n.Node, seen, strings.Join(down, ", "))
	}
}

func (p *printer) explanation(e api.Explanation) {
	p.line("%s: %s", e.Service, strings.Join(e.Order, ", "))
	if e.Check != "" {
		p.line("health check: %s", e.Check)
	}
	p.backends(e.Backends)
	p.line("")
	if len(e.Journal) == 0 {
		p.line("no changes yet: the queue is as configured")
	}
	for _, entry := range e.Journal {
		p.line("%s", entry.Sentence)
	}
}

func (p *printer) test(t api.Test) {
	if len(t.Dials) > 0 {
		p.line("check: %s", t.Check)
	}
	if t.Error != "" {
		p.line("%s", t.Error)
	}
	for _, d := range t.Dials {
		if d.OK {
			p.row(d.Network, d.Address, "answered after "+formatMilliseconds(d.Latency))
		} else {
			p.row(d.Network, d.Address, fmt.Sprintf("failed after %s: %s", formatMilliseconds(d.Latency), d.Error))
		}
	}
	for _, network := range slices.Sorted(maps.Keys(t.Untested)) {
		p.line("%s not tested: %s", strings.ToUpper(network), t.Untested[network])
	}
}

func (p *printer) dns(all []api.DNSEntry) {
	if len(all) == 0 {
		p.line("no names")
		return
	}
	p.row("HOST", "SOURCE", "AGE", "LEFT", "ADDRESSES")
	for _, n := range all {
		age, left := "-", "-"
		if !n.Resolved.IsZero() {
			age = formatSpan(p.now.Sub(n.Resolved))
		}
		if n.TTLLeft > 0 {
			left = formatSpan(time.Duration(n.TTLLeft * float64(time.Second)))
		}
		p.row(n.Host, n.Source, age, left, strings.Join(n.Addresses, " "))
	}
	for _, n := range all {
		if n.Error != "" {
			p.line("%s: %s", n.Host, n.Error)
		}
	}
}

// formatPosition formats a position. It is "-" for a removed backend.
func formatPosition(position int) string {
	if position == 0 {
		return "-"
	}
	return fmt.Sprint(position)
}

// formatSpan formats a duration in seconds, or in minutes from an hour on. A
// negative one counts as 0: the clocks of the two processes may differ.
func formatSpan(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	if d >= time.Hour {
		d = d.Round(time.Minute)
		return strings.TrimSuffix(d.String(), "0s")
	}
	return d.String()
}

// formatMilliseconds formats milliseconds with three significant digits, or
// with all digits before the point.
func formatMilliseconds(ms float64) string {
	if ms >= 100 {
		return fmt.Sprintf("%.0fms", ms)
	}
	return fmt.Sprintf("%.3gms", ms)
}

// formatBytes formats a count of bytes with up to four digits and a unit.
func formatBytes(n uint64) string {
	size, units := float64(n), "BkMGTPE"
	for len(units) > 1 && size >= 999.95 { // 999.95 would be rounded to 1000.0
		size, units = size/1000, units[1:]
	}
	if units[0] == 'B' {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%cB", size, units[0])
}
