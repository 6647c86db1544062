package caddyfile

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// DefaultRemember is the age of remember in a Caddyfile that does not write it.
const DefaultRemember = time.Hour

// The bounds of remember.
const (
	minRemember = time.Second
	maxRemember = 30 * 24 * time.Hour
)

// AppConfig is the config of the app relay, which all relays of a process share.
type AppConfig struct {
	// Keeps the state of all services in Caddy's storage, and uses it at the next start
	// if it is younger than this: the order of backends, strikes, cooldowns, drains,
	// holds, the last good DNS answers and, after an orderly exit, counters. At most 30
	// days. Default: off.
	Remember caddy.Duration `json:"remember,omitempty"`

	// The name of a fleet. Instances of Caddy with the same name and the same storage
	// behave as one: an operator's drains, resets, holds and drills on one of them are
	// repeated by the others, and a backend that one of them has demoted is tried only
	// briefly by the others. Letters, digits, `-`, `_` and `.`, at most 64. Placeholders
	// such as {env.FLEET} are replaced. Default: none; nothing is shared.
	Share string `json:"share,omitempty"`

	// The name of this instance in the storage, for remember and share: at most 64
	// letters, digits, dots, dashes and underscores. Placeholders such as {env.HOSTNAME}
	// are replaced. A fleet adds a random part, so that each process is a node of its
	// own. Default: the host name, for remember with the address of the admin endpoint.
	Instance string `json:"instance,omitempty"`
}

// appOption is an option of the app.
type appOption struct {
	name     string
	optional bool // its argument
	set      func(c *AppConfig, arg string) error
}

var appOptions = []appOption{
	{"remember", true, setRemember},
	{"share", false, func(c *AppConfig, arg string) error { c.Share = arg; return nil }},
	{"instance", false, func(c *AppConfig, arg string) error { c.Instance = arg; return nil }},
}

// UnmarshalCaddyfile parses the global option relay. Syntax:
//
//	relay {
//		remember [<age>]
//		share <fleet>
//		instance <name>
//	}
func (c *AppConfig) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // relay
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		var option *appOption
		var known []string
		for i := range appOptions {
			known = append(known, appOptions[i].name)
			if appOptions[i].name == name {
				option = &appOptions[i]
			}
		}
		switch {
		case option == nil:
			if meant := Nearest(name, known); meant != "" {
				return d.Errf("unrecognized option '%s' of the global option relay; did you mean '%s'?", name, meant)
			}
			return d.Errf("unrecognized option '%s' of the global option relay", name)
		case seen[name]:
			return d.Errf("duplicate option '%s'", name)
		}
		seen[name] = true
		args := d.RemainingArgs()
		if len(args) != 1 && !(option.optional && len(args) == 0) {
			return d.ArgErr()
		}
		if err := option.set(c, strings.Join(args, "")); err != nil {
			return d.Errf("%s: %w", name, err)
		}
	}
	return nil
}

// setRemember sets the option remember; no argument means its default.
func setRemember(c *AppConfig, arg string) error {
	if arg == "" {
		c.Remember = caddy.Duration(DefaultRemember)
		return nil
	}
	age, err := caddy.ParseDuration(arg)
	if err != nil {
		return fmt.Errorf("must be a duration such as 10m or 1h, got %q", arg)
	}
	if age == 0 {
		return errors.New("must be greater than zero, got 0s; leave the option out to turn it off")
	}
	c.Remember = caddy.Duration(age)
	return c.checkRemember()
}

// storageName are the names of instances and fleets, which are parts of storage keys.
var storageName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

// Resolved returns the config with its placeholders replaced.
func (c AppConfig) Resolved(repl *caddy.Replacer) (AppConfig, error) {
	for option, name := range map[string]*string{"share": &c.Share, "instance": &c.Instance} {
		text, err := repl.ReplaceOrErr(*name, true, true)
		if err != nil {
			return c, fmt.Errorf("%s: %w", option, err)
		}
		*name = text
	}
	return c, nil
}

// Validate returns an error for values that are out of range.
func (c *AppConfig) Validate() error {
	if err := c.checkRemember(); err != nil {
		return fmt.Errorf("remember: %w", err)
	}
	for _, o := range []struct{ option, name string }{{"share", c.Share}, {"instance", c.Instance}} {
		if o.name != "" && !storageName.MatchString(o.name) {
			return fmt.Errorf("%s: must have at most 64 letters, digits, dots, dashes and underscores, and must not begin with a dot, got %q", o.option, o.name)
		}
	}
	return nil
}

func (c *AppConfig) checkRemember() error {
	age := time.Duration(c.Remember)
	switch {
	case age == 0 || age >= minRemember && age <= maxRemember:
		return nil
	case age > 0 && age < time.Millisecond:
		return fmt.Errorf("a number without a unit is in nanoseconds, got %d; write \"%ds\" for seconds", age, age)
	}
	return fmt.Errorf("must be from %s to %s, got %s", FormatDuration(minRemember), FormatDuration(maxRemember), FormatDuration(age))
}
