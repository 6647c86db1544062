package caddyfile

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// The keys of async-relay's files. The other keys are options of the relay, which
// have the names that they have in a Caddyfile.
var (
	originalServiceKeys     = []string{"name", "protocol", "listen", "backends", "backend_cooldown", "health_check", "event_hook"}
	originalHealthCheckKeys = []string{"enabled", "interval", "timeout"}

	serviceKeys     = append(slices.Clip(originalServiceKeys), yamlOptions("")...)
	healthCheckKeys = append(slices.Clip(originalHealthCheckKeys), yamlOptions("health_check.")...)
)

// yamlOptions returns the options of a block that YAML files have as keys of their
// own. prefix is the name of the block with a dot, or empty.
func yamlOptions(prefix string) (names []string) {
	for _, o := range orderedOptions {
		if name, ok := yamlOption(o, prefix); ok {
			names = append(names, name)
		}
	}
	if prefix == "health_check." {
		names = append(names, "http_status")
	}
	return names
}

// yamlOption returns the key of an option in a block. ok is false if the option is
// not in the block, or if one of async-relay's keys sets it.
func yamlOption(o option, prefix string) (key string, ok bool) {
	key, ok = strings.CutPrefix(o.name, prefix)
	switch {
	case !ok || strings.Contains(key, "."):
		return "", false
	case prefix == "":
		return key, key != "backend" && key != "cooldown" && !slices.Contains(originalServiceKeys, key)
	}
	return key, !slices.Contains(originalHealthCheckKeys, key)
}

// yamlKey returns the key of YAML files that sets a field.
func yamlKey(field string) string {
	if field == "cooldown" {
		return "backend_cooldown"
	}
	return field
}

// readOptions sets the options of a block that f has, and reports whether there are
// any.
func (f fields) readOptions(c *Config, prefix string) (any bool) {
	for _, o := range orderedOptions {
		key, ok := yamlOption(o, prefix)
		if !ok {
			continue
		}
		v, ok := f.get(key)
		if !ok {
			continue
		}
		any = true
		args, isSet := v.arguments(o)
		if !isSet {
			continue
		}
		if o.name == "health_check.http" {
			if status, ok := f.get("http_status"); ok {
				more, _ := status.arguments(o)
				args = append(args, more...)
			}
		}
		if err := o.set(c, args); err != nil {
			v.fail("%v", err)
		}
	}
	if v, ok := f.get("http_status"); ok && f.byKey["http"].node == nil {
		v.fail("requires health_check.http")
	}
	return any
}

// arguments returns a value as the arguments that the option has in a Caddyfile.
// isSet is false if there are none: the value cannot be read, or it is false.
func (v value) arguments(o option) (args []string, isSet bool) {
	if v.node.Kind == yamlSequence && o.max > 1 {
		items, _ := v.list("")
		if len(items) == 0 {
			v.fail("must be %s, got an empty list", v.expected(o))
			return nil, false
		}
		for _, item := range items {
			text, ok := item.argument(o)
			if !ok {
				return nil, false
			}
			args = append(args, text)
		}
		return args, true
	}
	if o.max == 0 {
		on, _ := v.boolean()
		return nil, on
	}
	text, ok := v.argument(o)
	return []string{text}, ok
}

// argument returns a scalar as one argument. A number is a number of seconds where
// the option is a duration.
func (v value) argument(o option) (string, bool) {
	s, ok := v.scalar()
	number := s.kind == scalarInt || s.kind == scalarFloat
	switch {
	case !ok || s.kind == scalarNull:
	case number && (strings.Contains(s.text, ":") || math.IsInf(s.number, 0) || math.IsNaN(s.number)):
	case number && o.kind == kindDuration:
		return strconv.FormatFloat(s.number, 'f', -1, 64) + "s", true
	case number && o.kind == kindNumber && s.number == math.Trunc(s.number):
		return strconv.FormatFloat(s.number, 'f', -1, 64), true
	case o.kind == kindNumber && s.kind != scalarText, o.kind == kindText && s.kind != scalarText && !v.isStatus():
	case s.kind == scalarBool && o.kind == kindWord && slices.Contains(strings.Split(o.value, "|"), "on"):
		return strconv.FormatBool(s.boolean), true
	default:
		return s.text, true
	}
	v.mustBe(v.expected(o))
	return "", false
}

// isStatus reports whether v holds statuses of HTTP, which may be numbers. They are
// arguments of health_check.http.
func (v value) isStatus() bool { return v.at.field == "health_check.http_status" }

// expected describes what v must be as the value of an option.
func (v value) expected(o option) string {
	switch {
	case v.isStatus():
		return "a status such as 204, a class such as 2xx or a range such as 200-399, or a list of them"
	case o.kind == kindDuration:
		return "a duration such as 5s, 10m or 1h, or a number of seconds"
	case o.kind == kindWord:
		return "one of " + strings.ReplaceAll(o.value, "|", ", ")
	case o.kind == kindNumber && o.value == "<size>":
		return "a number of bytes, or a size such as 16KiB"
	case o.kind == kindNumber:
		return "a whole number"
	case o.list:
		return "text or a list of texts"
	}
	return "text"
}

// failOnce reports a problem with a field, unless the report has one with it
// already.
func (f fields) failOnce(field string, err error) {
	at := f.at.key(field)
	if f.rep.has(at) {
		return
	}
	line := f.line
	if v, ok := f.get(field); ok {
		line = v.line
	} else if outer, inner, nested := strings.Cut(field, "."); nested {
		if v, ok := f.get(outer); ok {
			line = v.line
			for _, p := range pairs(v.node) {
				if p.key == inner {
					line = p.line
				}
			}
		}
	}
	f.rep.fail(line, at, "%v", err)
}
