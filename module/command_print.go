package module

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// printer writes answers of the admin API for people, within 100 columns where
// names are of the usual length.
type printer struct {
	table *tabwriter.Writer
	now   time.Time
}

func newPrinter(out io.Writer) *printer {
	return &printer{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), time.Now()}
}

// flush ends the output; it gives the first error of all of it.
func (p *printer) flush() error { return p.table.Flush() }

// line writes a line that is no part of a table.
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

// services writes a table for each, and below it what is wrong with whom.
func (p *printer) services(all ...serviceView) {
	if len(all) == 0 {
		p.line("no services")
	}
	for i, s := range all {
		if i > 0 {
			p.line("")
		}
		p.line("%s: %s, %d served%s", s.Name, s.Active, s.Totals.Connections, s.remarks())
		p.backends(s.Backends)
	}
}

// remarks are what is not so in good times.
func (s serviceView) remarks() string {
	var b strings.Builder
	var refused uint64
	for _, n := range s.Refused {
		refused += n
	}
	if refused > 0 {
		fmt.Fprintf(&b, ", %d refused", refused)
	}
	if s.Removed {
		b.WriteString(", removed from the config")
	}
	return b.String()
}

func (p *printer) backends(all []backendView) {
	p.row("#", "CONF", "BACKEND", "STATE", "ACTIVE", "SERVED", "FAILED", "UP", "DOWN", "CONNECT")
	for _, b := range all {
		connect := "-"
		if b.Connect.P50 > 0 {
			connect = inMilliseconds(b.Connect.P50)
		}
		p.row(place(b.Position), place(b.Configured), b.Address, b.State, b.Active.TCP+b.Active.UDP,
			b.Totals.Connections, b.Totals.Failures, inBytes(b.Totals.BytesUp), inBytes(b.Totals.BytesDown), connect)
	}
	for _, b := range all {
		if b.State != upstream.Up && b.State != stateRemoved {
			p.line("%s: %s", b.Address, p.trouble(b))
		}
	}
}

// trouble is what is wrong with a backend, and since when.
func (p *printer) trouble(b backendView) string {
	var parts []string
	for _, name := range []string{"tcp", "udp"} {
		n := b.Networks[name]
		text := fmt.Sprintf("%s %s", name, n.State)
		switch n.State {
		case upstream.Cooling:
			text += fmt.Sprintf(" for another %s, down for %s", ago(n.Cooling.Sub(p.now)), ago(p.now.Sub(n.DownSince)))
		case upstream.Down:
			text += " for " + ago(p.now.Sub(n.DownSince))
		}
		parts = append(parts, text)
	}
	if b.State == upstream.Draining {
		parts = []string{"takes nobody new, " + b.Active.String()}
	}
	if f := b.Failure; f != nil {
		parts = append(parts, fmt.Sprintf("last failure %s ago: %s", ago(p.now.Sub(f.At)), f.Error))
	}
	return strings.Join(parts, "; ")
}

func (p *printer) explanation(e explanation) {
	p.line("%s: %s", e.Service, strings.Join(e.Order, ", "))
	p.backends(e.Backends)
	p.line("")
	if len(e.Journal) == 0 {
		p.line("nothing has happened to this queue: it stands as configured")
	}
	for _, entry := range e.Journal {
		p.line("%s", entry.Sentence)
	}
}

func (p *printer) test(t testView) {
	if t.Error != "" {
		p.line("%s", t.Error)
	}
	for _, d := range t.Dials {
		if d.OK {
			p.row(d.Network, d.Address, "answered after "+inMilliseconds(d.Latency))
		} else {
			p.row(d.Network, d.Address, fmt.Sprintf("failed after %s: %s", inMilliseconds(d.Latency), d.Error))
		}
	}
}

func (p *printer) names(all []dnsView) {
	if len(all) == 0 {
		p.line("no names")
		return
	}
	p.row("HOST", "SOURCE", "AGE", "LEFT", "ADDRESSES")
	for _, n := range all {
		age, left := "-", "-"
		if !n.Resolved.IsZero() {
			age = ago(p.now.Sub(n.Resolved))
		}
		if n.TTLLeft > 0 {
			left = ago(time.Duration(n.TTLLeft * float64(time.Second)))
		}
		p.row(n.Host, n.Source, age, left, strings.Join(n.Addresses, " "))
	}
	for _, n := range all {
		if n.Error != "" {
			p.line("%s: %s", n.Host, n.Error)
		}
	}
}

// String is as it stands in a sentence.
func (c networkCounts) String() string {
	return fmt.Sprintf("%d TCP and %d UDP at work", c.TCP, c.UDP)
}

// place is a position; a backend that was removed has none.
func place(position int) string {
	if position == 0 {
		return "-"
	}
	return fmt.Sprint(position)
}

// ago is a span as people say it; clocks that differ do not make it negative.
func ago(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	if d >= time.Hour {
		d = d.Round(time.Minute)
		return strings.TrimSuffix(d.String(), "0s")
	}
	return d.String()
}

// inMilliseconds has three digits, or as many as there are before the point.
func inMilliseconds(ms float64) string {
	if ms >= 100 {
		return fmt.Sprintf("%.0fms", ms)
	}
	return fmt.Sprintf("%.3gms", ms)
}

// inBytes is a count of bytes in three or four digits.
func inBytes(n uint64) string {
	size, units := float64(n), "BkMGTPE"
	for len(units) > 1 && size >= 999.95 { // which one decimal makes 1000.0
		size, units = size/1000, units[1:]
	}
	if units[0] == 'B' {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%cB", size, units[0])
}
