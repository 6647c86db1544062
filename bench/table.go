package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// metric is one number of a row.
type metric struct {
	key   string
	title string
	ratio bool // whether cells show a ratio
}

// values are the results of one measurement, by the key of the metric.
type values map[string]float64

// ours is the target that all others are compared with.
const ours = "relay, relay+"

// results holds the lines of the tables, in the order of begin.
type results struct {
	lines  []*line
	failed []string // cells without a number, and the error
}

// line is one metric of a row.
type line struct {
	group, row string
	metric     metric
	samples    map[string][]float64 // by target, one value a round
}

// begin adds the line of a metric. Lines are added before the measurements, so
// that their order does not depend on which targets have values.
func (r *results) begin(group, row string, m metric) {
	r.lines = append(r.lines, &line{group: group, row: row, metric: m, samples: map[string][]float64{}})
}

func (r *results) add(row string, m metric, target string, v float64) {
	for _, l := range r.lines {
		if l.row == row && l.metric.key == m.key {
			l.samples[target] = append(l.samples[target], v)
		}
	}
}

// fail records the first error of a target in a row.
func (r *results) fail(row, target string, err error) {
	prefix := row + ", " + target + ": "
	if !slices.ContainsFunc(r.failed, func(text string) bool { return strings.HasPrefix(text, prefix) }) {
		r.failed = append(r.failed, prefix+err.Error())
	}
}

// columns returns the targets that have values in a group, in the order given.
func (r *results) columns(group string, order []string) (names []string) {
	for _, name := range order {
		if slices.ContainsFunc(r.lines, func(l *line) bool { return l.group == group && len(l.samples[name]) > 0 }) {
			names = append(names, name)
		}
	}
	return names
}

// about describes the run in the report.
type about struct {
	facts []string
	order []string // of the columns
}

func (r *results) markdown(a about) string {
	var out strings.Builder
	for _, fact := range a.facts {
		fmt.Fprintf(&out, "- %s\n", fact)
	}
	var groups []string
	for _, l := range r.lines {
		if !slices.Contains(groups, l.group) {
			groups = append(groups, l.group)
		}
	}
	for _, group := range groups {
		columns := r.columns(group, a.order)
		fmt.Fprintf(&out, "\n**%s**\n\n| row | unit | %s | spread |\n|---|---|%s---:|\n", group,
			strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)))
		last := ""
		for _, l := range r.lines {
			if l.group != group {
				continue
			}
			name := l.row
			if name == last {
				name = ""
			}
			last = l.row
			fmt.Fprintf(&out, "| %s | %s |", name, l.metric.title)
			for _, column := range columns {
				fmt.Fprintf(&out, " %s |", l.cell(column))
			}
			fmt.Fprintf(&out, " %s |\n", l.spread())
		}
	}
	for i, text := range r.failed {
		if i == 0 {
			out.WriteString("\nNot measured:\n\n")
		}
		fmt.Fprintf(&out, "- %s\n", strings.Join(strings.Fields(text), " "))
	}
	return out.String()
}

// cell returns the median of a target, with the ratio of ours to it.
func (l *line) cell(target string) string {
	own := l.samples[target]
	if len(own) == 0 {
		return "-"
	}
	text := number(median(own))
	if factor, ok := ratio(l.samples[ours], own); ok && l.metric.ratio && target != ours {
		text += fmt.Sprintf(" (%.2fx)", factor)
	}
	return text
}

// spread returns the widest distance between two rounds of one target, relative to
// the median of that target.
func (l *line) spread() string {
	widest := 0.0
	for _, s := range l.samples {
		if m := median(s); m > 0 {
			widest = max(widest, (slices.Max(s)-slices.Min(s))/m)
		}
	}
	return fmt.Sprintf("%.0f %%", 100*widest)
}

func median(s []float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// ratio returns the ratio of the medians of a and b.
func ratio(a, b []float64) (factor float64, ok bool) {
	if len(a) == 0 || median(b) <= 0 {
		return 0, false
	}
	return median(a) / median(b), true
}

// number formats a value with three significant digits, or as an integer with
// commas between thousands.
func number(v float64) string {
	decimals := 0
	switch {
	case v == 0:
		return "0"
	case v < 1:
		decimals = 3
	case v < 10:
		decimals = 2
	case v < 100:
		decimals = 1
	}
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	for i := len(text) - 3; decimals == 0 && i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// The lines between which a document holds the table.
const (
	tableBegins = "<!-- bench: begin -->"
	tableEnds   = "<!-- bench: end -->"
)

// writeReport writes the report to a file. If the file has the marks of a table,
// it replaces only the text between them.
func writeReport(file, report string) error {
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(file, []byte(insert(string(text), report)), 0o644)
}

func insert(text, report string) string {
	before, rest, ok := strings.Cut(text, tableBegins+"\n")
	if !ok {
		return report
	}
	_, after, _ := strings.Cut(rest, tableEnds)
	return before + tableBegins + "\n" + report + tableEnds + after
}
