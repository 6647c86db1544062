package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// tables returns the tables of the rows that were measured, one for each group.
func (r *results) tables(rows []row) string {
	var out strings.Builder
	var groups []string
	for _, row := range rows {
		if r.measured(row) != nil && !slices.Contains(groups, row.group) {
			groups = append(groups, row.group)
		}
	}
	for _, group := range groups {
		columns := r.columns(group, rows)
		fmt.Fprintf(&out, "\n**%s**\n\n| row | unit | %s | spread |\n|---|---|%s---:|\n", group,
			strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)))
		for _, row := range rows {
			if measured := r.measured(row); row.group == group && measured != nil {
				measured.lines(&out, row, columns)
			}
		}
	}
	for i, text := range r.Failed {
		if i == 0 {
			out.WriteString("\nNot measured:\n\n")
		}
		fmt.Fprintf(&out, "- %s\n", strings.Join(strings.Fields(text), " "))
	}
	for i, text := range r.Skipped {
		if i == 0 {
			out.WriteString("\nRows that were left out:\n\n")
		}
		fmt.Fprintf(&out, "- %s\n", text)
	}
	return out.String()
}

// columns returns the targets that have values in a group.
func (r *results) columns(group string, rows []row) (names []string) {
	for _, name := range r.Columns {
		if slices.ContainsFunc(rows, func(row row) bool {
			measured := r.measured(row)
			return row.group == group && measured != nil && measured.has(name, row)
		}) {
			names = append(names, name)
		}
	}
	return names
}

// measured returns the results of a row, or nil if it has no values, because it was left
// out, for example.
func (r *results) measured(of row) *rowResult {
	if found := r.row(of.name); found != nil && len(found.Samples) > 0 {
		return found
	}
	return nil
}

// has reports whether a target has a value that a row reports.
func (r *rowResult) has(target string, of row) bool {
	return slices.ContainsFunc(of.metrics, func(m metric) bool {
		return slices.ContainsFunc(m.keys, func(key string) bool { return len(r.Samples[target][key]) > 0 })
	})
}

func (r *rowResult) lines(out *strings.Builder, of row, columns []string) {
	for i, m := range of.metrics {
		name := ""
		if i == 0 {
			name = of.name
		}
		fmt.Fprintf(out, "| %s | %s |", name, m.title)
		for _, column := range columns {
			fmt.Fprintf(out, " %s |", r.cell(m, column))
		}
		fmt.Fprintf(out, " %s |\n", r.spread(m))
	}
}

// cell returns the medians of a target, with the ratios of ours to them.
func (r *rowResult) cell(m metric, target string) string {
	var numbers, ratios []string
	any := false
	for _, key := range m.keys {
		own, ok := r.median(target, key)
		if !ok {
			numbers, ratios = append(numbers, "-"), append(ratios, "-")
			continue
		}
		any = true
		numbers = append(numbers, number(own))
		if factor, ok := quotient(r.Samples[ours][key], r.Samples[target][key]); ok && m.ratio && target != ours {
			ratios = append(ratios, fmt.Sprintf("%.2fx", factor))
		} else {
			ratios = append(ratios, "-")
		}
	}
	if !any {
		return "-"
	}
	text := strings.Join(numbers, " / ")
	if slices.ContainsFunc(ratios, func(ratio string) bool { return ratio != "-" }) {
		text += " (" + strings.Join(ratios, " / ") + ")"
	}
	return text
}

// spread returns the widest distance between two rounds of one target, relative to
// the median of that target, for each key.
func (r *rowResult) spread(m metric) string {
	var all []string
	for _, key := range m.keys {
		widest := 0.0
		for _, samples := range r.Samples {
			if s := samples[key]; median(s) > 0 {
				widest = max(widest, (slices.Max(s)-slices.Min(s))/median(s))
			}
		}
		all = append(all, fmt.Sprintf("%.0f", 100*widest))
	}
	return strings.Join(all, " / ") + " %"
}

// quotient returns the ratio of the medians of a and b.
func quotient(a, b []float64) (factor float64, ok bool) {
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
	if decimals == 0 {
		return whole(int(math.Round(v)))
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// whole formats an integer with commas between thousands.
func whole(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
