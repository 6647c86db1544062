package caddyfile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// place says where in the file something is, besides its line.
type place struct {
	service string // as the report names it; empty outside of services
	field   string // keys joined by dots, seen from the service or the root
}

func (p place) key(name string) place {
	if p.field != "" {
		name = p.field + "." + name
	}
	return place{p.service, name}
}

// report collects what is wrong with a file and what is worth a warning.
type report struct {
	file     string
	problems []problem
	warnings []caddyconfig.Warning
}

type problem struct {
	line int
	text string
}

func (r *report) fail(line int, at place, format string, args ...any) {
	text := fmt.Sprintf("line %d: ", line)
	if at.service != "" {
		text += at.service + ": "
	}
	if at.field != "" {
		text += at.field + ": "
	}
	r.problems = append(r.problems, problem{line, text + fmt.Sprintf(format, args...)})
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

// allWarnings is in the order of the file.
func (r *report) allWarnings() []caddyconfig.Warning {
	slices.SortStableFunc(r.warnings, func(a, b caddyconfig.Warning) int { return a.Line - b.Line })
	return r.warnings
}

// err is all problems in the order of the file, one a line, or nil.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int { return a.line - b.line })
	lines := make([]string, len(r.problems))
	for i, p := range r.problems {
		lines[i] = p.text
	}
	return errors.New(strings.Join(lines, "\n"))
}

// quoted is text for a report, cut short where it is long.
func quoted(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	return strconv.Quote(text)
}

// nearest is the known key that key was probably meant to be, or "".
func nearest(key string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(key), k); d < least && d < len(k)/2 {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of letters to add, drop or change to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
