package asyncrelay

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// place identifies a value in the file by its service and key.
type place struct {
	service string // as in the report; empty outside of services
	field   string // keys from the service or the root, joined by dots
}

// key returns the place of a key in the mapping at p.
func (p place) key(name string) place {
	if p.field != "" {
		name = p.field + "." + name
	}
	return place{p.service, name}
}

// Problem is a problem of a file.
type Problem struct {
	// The line of the text, from 1.
	Line int `json:"line"`

	// The service, such as `service "edge"`. Absent outside of services.
	Service string `json:"service,omitempty"`

	// The keys from the service or the root, joined by dots. Absent for a file that
	// cannot be read as a whole.
	Field string `json:"field,omitempty"`

	// What is wrong.
	Reason string `json:"reason"`
}

// String returns the problem as one line.
func (p Problem) String() string {
	text := fmt.Sprintf("line %d: ", p.Line)
	if p.Service != "" {
		text += p.Service + ": "
	}
	if p.Field != "" {
		text += p.Field + ": "
	}
	return text + p.Reason
}

// Problems are all problems of a file, in the order of their lines. There is at least
// one.
type Problems []Problem

// Error returns the problems, one per line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// report collects the problems and warnings of a file.
type report struct {
	file     string
	problems Problems
	unknown  Problems // unknown keys, which are warnings unless there are problems
	warnings []caddyconfig.Warning
}

// has reports whether there is a problem at a place.
func (r *report) has(at place) bool {
	return slices.ContainsFunc(r.problems, func(p Problem) bool { return p.Service == at.service && p.Field == at.field })
}

func (r *report) fail(line int, at place, format string, args ...any) {
	r.problems = append(r.problems, Problem{line, at.service, at.field, fmt.Sprintf(format, args...)})
}

// unknownKey warns about a key that is ignored. meant is the key that it is probably
// a misspelling of, or "".
func (r *report) unknownKey(line int, at place, meant string) {
	text := "unknown key, ignored"
	if meant != "" {
		text += fmt.Sprintf("; did you mean %q?", meant)
	}
	r.warn(line, at, "%s", text)
	r.unknown = append(r.unknown, Problem{line, at.service, at.field, text})
}

func (r *report) warn(line int, at place, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if at.service != "" {
		text = at.service + ": " + text
	}
	r.warnings = append(r.warnings, caddyconfig.Warning{
		File: r.file, Line: line, Directive: at.field, Message: text,
	})
}

// allWarnings returns the warnings in the order of their lines.
func (r *report) allWarnings() []caddyconfig.Warning {
	slices.SortStableFunc(r.warnings, func(a, b caddyconfig.Warning) int { return a.Line - b.Line })
	return r.warnings
}

// err returns the problems, or nil if there are none. The unknown keys are among
// them: a misspelled key is often the reason of a problem.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	all := append(slices.Clip(r.problems), r.unknown...)
	slices.SortStableFunc(all, func(a, b Problem) int { return a.Line - b.Line })
	return all
}
