package caddyfile

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// AppConfig is the config of the app relay, which all relays of a process share.
type AppConfig struct {
	// The name of a fleet. Instances of Caddy with the same name and the same storage
	// behave as one: an operator's drains, resets, holds and drills on one of them are
	// repeated by the others, and a backend that one of them has demoted is tried only
	// briefly by the others. Letters, digits, `-`, `_` and `.`, at most 64. Default: none;
	// nothing is shared.
	Share string `json:"share,omitempty"`

	// The first part of the name of this instance in its fleet. A random second part
	// makes each process unique. Default: the host name.
	Node string `json:"node,omitempty"`
}

// appOption is an option of the app.
type appOption struct {
	name string
	set  func(c *AppConfig, arg string) error
}

var appOptions = []appOption{
	{"share", func(c *AppConfig, arg string) error { c.Share = arg; return nil }},
	{"node", func(c *AppConfig, arg string) error { c.Node = arg; return nil }},
}

// UnmarshalCaddyfile parses the global option relay. Syntax:
//
//	relay {
//		share <fleet>
//		node  <name>
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
		if len(args) != 1 {
			return d.ArgErr()
		}
		if err := option.set(c, args[0]); err != nil {
			return d.Errf("%s: %w", name, err)
		}
	}
	return nil
}

// fleetName are the names of fleets and nodes, which are parts of storage keys.
var fleetName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// Validate checks the config of the app.
func (c *AppConfig) Validate() error {
	switch {
	case c.Share != "" && !fleetName.MatchString(c.Share):
		return fmt.Errorf("share: the name of a fleet has at most 64 letters, digits, -, _ and . and begins with a letter, digit or _, got %q", c.Share)
	case c.Node != "" && !fleetName.MatchString(c.Node):
		return fmt.Errorf("node: the name of a node has at most 64 letters, digits, -, _ and . and begins with a letter, digit or _, got %q", c.Node)
	case c.Node != "" && c.Share == "":
		return errors.New("node requires share: it is the name of this instance in a fleet")
	}
	return nil
}
