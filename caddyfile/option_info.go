package caddyfile

import (
	"fmt"
	"math"
	"strings"
)

// OptionInfo describes an option of a relay, for everything that is made from the
// table of options: flags of commands, keys of YAML files and their schema.
type OptionInfo struct {
	Name  string // as in a Caddyfile; "outer.inner" in the block of another option
	Value string // what its arguments stand for, such as "<duration>"; empty: it has none
	Usage string // what it does, in a sentence
	Kind  Kind   // how an argument is written
	List  bool   // each argument is an element of a list
	Many  bool   // it may have more than one argument
	Bare  string // the argument that its absence stands for; empty: it needs an argument
	Least int    // the least whole number that it accepts
	Most  int    // the greatest whole number that it accepts; 0: no limit
}

// AllOptions returns all options in the order of the fields of [Config]. An option
// with a block precedes the options of the block.
func AllOptions() []OptionInfo {
	list := make([]OptionInfo, len(orderedOptions))
	for i, o := range orderedOptions {
		list[i] = OptionInfo{Name: o.name, Value: o.value, Usage: o.usage, Kind: o.kind, List: o.list, Many: o.max > 1, Bare: o.bare}
		for _, s := range countSettings {
			if s.field == o.name {
				list[i].Least = s.min
				if s.max < math.MaxInt {
					list[i].Most = s.max
				}
			}
		}
	}
	return list
}

// Set sets an option to the arguments that a Caddyfile would have. The option of
// a health check turns it on. Errors do not name the option.
func (c *Config) Set(name string, args ...string) error {
	for _, o := range orderedOptions {
		if o.name != name {
			continue
		}
		if len(args) < o.min {
			return fmt.Errorf("needs a value: %s", o.value)
		}
		if len(args) > o.max {
			return fmt.Errorf("too many values, expected %s", strings.TrimSpace(o.value))
		}
		if strings.HasPrefix(name, "health_check.") && c.HealthCheck == nil {
			c.HealthCheck = &HealthCheck{}
		}
		if strings.HasPrefix(name, "event_hook.") && c.EventHook == nil {
			return fmt.Errorf("requires event_hook, the command to run")
		}
		if o.short != "" && len(args) > 0 {
			if err := o.set(c, nil); err != nil {
				return err
			}
			return o.block[o.short].set(c, args)
		}
		return o.set(c, args)
	}
	return fmt.Errorf("unknown option %q", name)
}
