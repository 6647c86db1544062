package caddyfile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
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

// report collects the problems and warnings of a file.
type report struct {
	file     string
	problems []problem
	unknown  []problem // unknown keys, which are warnings unless there are problems
	warnings []caddyconfig.Warning
}

type problem struct {
	line int
	at   place
	text string
}

// has reports whether there is a problem at a place.
func (r *report) has(at place) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool { return p.at == at })
}

func (r *report) fail(line int, at place, format string, args ...any) {
	r.problems = append(r.problems, newProblem(line, at, fmt.Sprintf(format, args...)))
}

// unknownKey warns about a key that is ignored. meant is the key that it is probably
// a misspelling of, or "".
func (r *report) unknownKey(line int, at place, meant string) {
	text := "unknown key, ignored"
	if meant != "" {
		text += fmt.Sprintf("; did you mean %q?", meant)
	}
	r.warn(line, at, "%s", text)
	r.unknown = append(r.unknown, newProblem(line, at, text))
}

func newProblem(line int, at place, what string) problem {
	text := fmt.Sprintf("line %d: ", line)
	if at.service != "" {
		text += at.service + ": "
	}
	if at.field != "" {
		text += at.field + ": "
	}
	return problem{line, at, text + what}
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

// err returns all problems in the order of their lines, one per line, or nil if
// there are none. The unknown keys are among them: a misspelled key is often the
// reason of a problem.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	all := append(slices.Clip(r.problems), r.unknown...)
	slices.SortStableFunc(all, func(a, b problem) int { return a.line - b.line })
	lines := make([]string, len(all))
	for i, p := range all {
		lines[i] = p.text
	}
	return errors.New(strings.Join(lines, "\n"))
}

// quoted returns text in quotes, shortened if it is long.
func quoted(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	return strconv.Quote(text)
}
