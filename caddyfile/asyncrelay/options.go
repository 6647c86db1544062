package asyncrelay

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// The keys of async-relay's files. The other keys are options of the relay, which
// have the names that they have in a Caddyfile.
var (
	originalServiceKeys     = []string{"name", "protocol", "listen", "backends", "backend_cooldown", "health_check", "event_hook"}
	originalHealthCheckKeys = []string{"enabled", "interval", "timeout"}

	serviceKeys     = append(slices.Clip(originalServiceKeys), optionKeys("")...)
	healthCheckKeys = append(slices.Clip(originalHealthCheckKeys), optionKeys("health_check.")...)
)

// optionKeys returns the options of a block that YAML files have as keys of their
// own. prefix is the name of the block with a dot, or empty.
func optionKeys(prefix string) (names []string) {
	for _, o := range caddyfile.AllOptions() {
		if name, ok := optionKey(o, prefix); ok {
			names = append(names, name)
		}
	}
	if prefix == "health_check." {
		names = append(names, "http_status")
	}
	return names
}

// optionKey returns the key of an option in a block. ok is false if the option is
// not in the block, or if one of async-relay's keys sets it.
func optionKey(o caddyfile.OptionInfo, prefix string) (key string, ok bool) {
	key, ok = strings.CutPrefix(o.Name, prefix)
	switch {
	case !ok || strings.Contains(key, "."):
		return "", false
	case prefix == "":
		return key, key != "backend" && key != "cooldown" && !slices.Contains(originalServiceKeys, key)
	}
	return key, !slices.Contains(originalHealthCheckKeys, key)
}

// keyOfField returns the key of YAML files that sets a field.
func keyOfField(field string) string {
	if field == "cooldown" {
		return "backend_cooldown"
	}
	return field
}

// readOptions sets the options of a block that f has, and reports whether there are
// any.
func (f fields) readOptions(c *caddyfile.Config, prefix string) (any bool) {
	for _, o := range caddyfile.AllOptions() {
		key, ok := optionKey(o, prefix)
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
		if o.Name == "health_check.http" {
			if status, ok := f.get("http_status"); ok {
				more, _ := status.arguments(o)
				args = append(args, more...)
			}
		}
		if err := c.Set(o.Name, args...); err != nil {
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
func (v value) arguments(o caddyfile.OptionInfo) (args []string, isSet bool) {
	if v.node.Kind == sequenceNode && o.Many {
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
	if o.Value == "" {
		on, _ := v.boolean()
		return nil, on
	}
	text, ok := v.argument(o)
	return []string{text}, ok
}

// argument returns a scalar as one argument. A number is a number of seconds where
// the option is a duration.
func (v value) argument(o caddyfile.OptionInfo) (string, bool) {
	s, ok := v.scalar()
	number := s.kind == scalarInt || s.kind == scalarFloat
	switch {
	case !ok || s.kind == scalarNull:
	case number && (strings.Contains(s.text, ":") || math.IsInf(s.number, 0) || math.IsNaN(s.number)):
	case number && o.Kind == caddyfile.KindDuration:
		return strconv.FormatFloat(s.number, 'f', -1, 64) + "s", true
	case number && o.Kind == caddyfile.KindNumber && s.number == math.Trunc(s.number):
		return strconv.FormatFloat(s.number, 'f', -1, 64), true
	case o.Kind == caddyfile.KindNumber && s.kind != scalarText, o.Kind == caddyfile.KindText && s.kind != scalarText && !v.isStatus():
	case s.kind == scalarBool && o.Kind == caddyfile.KindWord && slices.Contains(strings.Split(o.Value, "|"), "on"):
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
func (v value) expected(o caddyfile.OptionInfo) string {
	switch {
	case v.isStatus():
		return "a status such as 204, a class such as 2xx or a range such as 200-399, or a list of them"
	case o.Kind == caddyfile.KindDuration:
		return "a duration such as 5s, 10m or 1h, or a number of seconds"
	case o.Kind == caddyfile.KindWord:
		return "one of " + strings.ReplaceAll(o.Value, "|", ", ")
	case o.Kind == caddyfile.KindNumber && o.Value == "<size>":
		return "a number of bytes, or a size such as 16KiB"
	case o.Kind == caddyfile.KindNumber:
		return "a whole number"
	case o.List:
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
