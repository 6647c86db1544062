package caddyfile

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v3"
)

// value is a node together with where it stands, so that whoever reads it can
// say what is wrong with it. Its methods report what they can not read, and
// then return false.
type value struct {
	rep  *report
	node *yaml.Node // never an alias
	line int
	at   place
}

func (v value) fail(format string, args ...any) { v.rep.fail(v.line, v.at, format, args...) }

func (v value) expected(what string) { v.fail("must be %s, got %s", what, describe(v.node)) }

// describe is what a report says it got.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yamlMapping:
		return "a mapping"
	case yamlSequence:
		return "a list"
	}
	switch s := resolveScalar(n); {
	case s.kind == scalarNull:
		return "nothing"
	case s.kind == scalarText:
		return quoted(s.text)
	case strings.Contains(s.text, ":"): // a number in base 60
		return s.text + ", which YAML reads as the number " + strconv.FormatFloat(s.number, 'f', -1, 64)
	default:
		return s.text
	}
}

// fields is a mapping whose known keys can be asked for.
type fields struct {
	value
	byKey map[string]value
}

// fields reads a mapping and warns of its keys that are not known, which have
// no effect. v must be a mapping.
func (v value) fields(known ...string) fields {
	f := fields{v, make(map[string]value)}
	for _, p := range pairs(v.node) {
		child := value{v.rep, p.val, p.line, v.at.key(p.key)}
		if slices.Contains(known, p.key) {
			f.byKey[p.key] = child
		} else if meant := nearest(p.key, known); meant != "" {
			v.rep.warn(child.line, child.at, "unknown key, ignored; did you mean %q?", meant)
		} else {
			v.rep.warn(child.line, child.at, "unknown key, ignored")
		}
	}
	return f
}

func (f fields) get(key string) (value, bool) {
	v, ok := f.byKey[key]
	return v, ok
}

// need is get for a key that must be there.
func (f fields) need(key, what string) (value, bool) {
	v, ok := f.byKey[key]
	if !ok {
		f.rep.fail(f.line, f.at.key(key), "is missing; must be %s", what)
	}
	return v, ok
}

// enabled takes true and false only. The original takes any text for true,
// "false" included.
func (f fields) enabled(def bool) bool {
	v, ok := f.get("enabled")
	if !ok {
		return def
	}
	enabled, _ := v.truth()
	return enabled
}

// mapping is fields for a value that should be a mapping.
func (v value) mapping(known ...string) (fields, bool) {
	if v.node.Kind != yamlMapping {
		v.expected("a mapping")
		return fields{}, false
	}
	return v.fields(known...), true
}

func (v value) list(what string) ([]value, bool) {
	if v.node.Kind != yamlSequence {
		v.expected(what)
		return nil, false
	}
	items := make([]value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = value{v.rep, follow(n), n.Line, v.at}
	}
	return items, true
}

func (v value) scalar() (scalar, bool) {
	if v.node.Kind != yamlScalar {
		return scalar{}, false
	}
	return resolveScalar(v.node), true
}

// text is a scalar that YAML, too, takes for text.
func (v value) text(what string) (string, bool) {
	s, ok := v.scalar()
	if !ok || s.kind != scalarText {
		v.expected(what)
		return "", false
	}
	return s.text, true
}

// word is any scalar with something in it, read as the text it is written as.
func (v value) word(what string) (string, bool) {
	s, ok := v.scalar()
	if !ok || s.kind == scalarNull || strings.TrimSpace(s.text) == "" {
		v.expected(what)
		return "", false
	}
	return s.text, true
}

func (v value) truth() (is, ok bool) {
	s, ok := v.scalar()
	if !ok || s.kind != scalarBool {
		v.expected("true or false")
		return false, false
	}
	return s.truth, true
}

// port takes whole numbers, also as text. Base 60, which YAML makes of 22:22,
// is nobody's idea of a port.
func (v value) port() (uint16, bool) {
	number := 0.0
	switch s, ok := v.scalar(); {
	case !ok:
	case s.kind == scalarText:
		digits := strings.TrimPrefix(strings.Trim(s.text, " \t"), "+")
		if n, err := parsePort(digits); err == nil {
			number = float64(n)
		}
	case s.kind == scalarInt, s.kind == scalarFloat:
		if !strings.Contains(s.text, ":") {
			number = s.number
		}
	}
	if number >= 1 && number <= math.MaxUint16 && number == math.Trunc(number) {
		return uint16(number), true
	}
	v.expected("1 to 65535")
	return 0, false
}

// seconds takes a number of seconds, also as text; zero only if that has a
// meaning.
func (v value) seconds(zero bool) (time.Duration, bool) {
	const what = "a number of seconds"
	s, ok := v.scalar()
	number := s.number
	switch {
	case ok && s.kind == scalarText && decimal.MatchString(strings.Trim(s.text, " \t")):
		number = floatValue(strings.Trim(s.text, " \t"))
	case ok && s.kind == scalarText:
		if d, err := caddy.ParseDuration(s.text); err == nil && d > 0 {
			v.fail("must be %s, got %q; write %s", what, s.text, strconv.FormatFloat(d.Seconds(), 'f', -1, 64))
			return 0, false
		}
		v.expected(what)
		return 0, false
	case !ok || s.kind != scalarInt && s.kind != scalarFloat:
		v.expected(what)
		return 0, false
	}

	switch {
	case math.IsNaN(number) || number > maxDuration.Seconds():
		v.expected("at most " + strconv.FormatFloat(maxDuration.Seconds(), 'f', -1, 64) + " seconds (100 years)")
		return 0, false
	case zero && number < 0:
		v.expected("zero or more seconds")
		return 0, false
	}
	d := time.Duration(math.Round(number * float64(time.Second)))
	if !zero && d <= 0 {
		v.expected("greater than zero seconds")
		return 0, false
	}
	return d, true
}
