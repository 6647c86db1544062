package asyncrelay

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v4"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// value is a node with its place in the file. Its methods convert the node. They
// report a node that they cannot convert and then return false.
type value struct {
	rep  *report
	node *yaml.Node // never an alias
	line int
	at   place
}

// fail reports a problem with v.
func (v value) fail(format string, args ...any) { v.rep.fail(v.line, v.at, format, args...) }

// warn adds a warning about v.
func (v value) warn(format string, args ...any) { v.rep.warn(v.line, v.at, format, args...) }

// mustBe reports that v is not what was expected.
func (v value) mustBe(what string) { v.fail("must be %s, got %s", what, describe(v.node)) }

// describe returns the text that reports use for n after "got".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case mappingNode:
		return "a mapping"
	case sequenceNode:
		return "a list"
	}
	switch s := resolveScalar(n); {
	case s.kind == scalarNull:
		return "nothing"
	case s.kind == scalarText:
		return caddyfile.Quoted(s.text)
	case strings.Contains(s.text, ":"): // base 60
		return s.text + ", which YAML reads as the number " + strconv.FormatFloat(s.number, 'f', -1, 64)
	default:
		return s.text
	}
}

// fields holds the values of a mapping's known keys.
type fields struct {
	value
	byKey map[string]value
}

// fields returns the fields of v, which must be a mapping, and warns about its
// unknown keys, which are ignored.
func (v value) fields(known ...string) fields {
	f := fields{v, make(map[string]value)}
	for _, p := range pairs(v.node) {
		child := value{v.rep, p.val, p.line, v.at.key(p.key)}
		if slices.Contains(known, p.key) {
			f.byKey[p.key] = child
		} else {
			v.rep.unknownKey(p.line, child.at, suggestKey(p.key, known))
		}
	}
	return f
}

// suggestKey returns the known key of a YAML file that key is probably a misspelling
// of, or "". The option cooldown has another name there.
func suggestKey(key string, known []string) string {
	if key == "cooldown" && slices.Contains(known, "backend_cooldown") {
		return "backend_cooldown"
	}
	return caddyfile.Nearest(key, known)
}

func (f fields) get(key string) (value, bool) {
	v, ok := f.byKey[key]
	return v, ok
}

// required is like get, but reports a missing key.
func (f fields) required(key, what string) (value, bool) {
	v, ok := f.byKey[key]
	if !ok {
		f.rep.fail(f.line, f.at.key(key), "is missing; must be %s", what)
	}
	return v, ok
}

// enabled returns the value of the key "enabled", which must be true or false.
// async-relay treats any text as true, even "false".
func (f fields) enabled(def bool) bool {
	v, ok := f.get("enabled")
	if !ok {
		return def
	}
	enabled, _ := v.boolean()
	return enabled
}

// mapping is like fields, but reports a value that is not a mapping.
func (v value) mapping(known ...string) (fields, bool) {
	if v.node.Kind != mappingNode {
		v.mustBe("a mapping")
		return fields{}, false
	}
	return v.fields(known...), true
}

// list returns the elements of a list.
func (v value) list(what string) ([]value, bool) {
	if v.node.Kind != sequenceNode {
		v.mustBe(what)
		return nil, false
	}
	items := make([]value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = value{v.rep, resolveAlias(n), n.Line, v.at}
	}
	return items, true
}

// scalar returns v if it is a scalar. Unlike the other methods it reports nothing.
func (v value) scalar() (scalar, bool) {
	if v.node.Kind != scalarNode {
		return scalar{}, false
	}
	return resolveScalar(v.node), true
}

// text returns a scalar whose YAML type is text.
func (v value) text(what string) (string, bool) {
	s, ok := v.scalar()
	if !ok || s.kind != scalarText {
		v.mustBe(what)
		return "", false
	}
	return s.text, true
}

// rawText returns a scalar of any type as it is written. Null and blank scalars
// are rejected.
func (v value) rawText(what string) (string, bool) {
	s, ok := v.scalar()
	if !ok || s.kind == scalarNull || strings.TrimSpace(s.text) == "" {
		v.mustBe(what)
		return "", false
	}
	return s.text, true
}

// secretText is like rawText, but its problem does not contain the text.
func (v value) secretText(what string) (string, bool) {
	if s, ok := v.scalar(); ok && s.kind != scalarNull && strings.TrimSpace(s.text) != "" {
		return s.text, true
	}
	if v.node.Kind == scalarNode {
		v.fail("must be %s, got nothing", what)
	} else {
		v.mustBe(what)
	}
	return "", false
}

func (v value) boolean() (b, ok bool) {
	s, ok := v.scalar()
	if !ok || s.kind != scalarBool {
		v.mustBe("true or false")
		return false, false
	}
	return s.boolean, true
}

// port accepts a whole number, also as text. It rejects base 60: YAML reads 22:22
// as 1342, which is not the port that was meant.
func (v value) port() (uint16, bool) {
	number := 0.0
	switch s, ok := v.scalar(); {
	case !ok:
	case s.kind == scalarText:
		digits := strings.TrimPrefix(strings.Trim(s.text, " \t"), "+")
		if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
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
	v.mustBe("1 to 65535")
	return 0, false
}

// seconds accepts a number of seconds, also as text. zero tells whether zero is
// allowed.
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
		v.mustBe(what)
		return 0, false
	case !ok || s.kind != scalarInt && s.kind != scalarFloat:
		v.mustBe(what)
		return 0, false
	}

	switch {
	case math.IsNaN(number) || number > caddyfile.MaxDuration.Seconds():
		v.mustBe("at most " + strconv.FormatFloat(caddyfile.MaxDuration.Seconds(), 'f', -1, 64) + " seconds (100 years)")
		return 0, false
	case zero && number < 0:
		v.mustBe("zero or more seconds")
		return 0, false
	}
	d := time.Duration(math.Round(number * float64(time.Second)))
	if !zero && d <= 0 {
		v.mustBe("greater than zero seconds")
		return 0, false
	}
	return d, true
}
