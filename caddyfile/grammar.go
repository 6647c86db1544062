package caddyfile

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// option is one line of the block. Everything the grammar refuses alike,
// whichever option it is, is decided from this table.
type option struct {
	name       string
	min, max   int // arguments
	repeatable bool
	set        func(c *Config, args []string) error
}

var options = optionTable()

func optionTable() map[string]option {
	table := []option{
		{"backend", 1, math.MaxInt, true, addBackends},
		{"name", 1, 1, false, setName},
		{"resolvers", 1, math.MaxInt, false, setResolvers},
	}
	for _, s := range durationSettings {
		table = append(table, option{s.field, 1, 1, false, s.set})
	}
	for _, s := range countSettings {
		table = append(table, option{s.field, 1, 1, false, s.set})
	}
	byName := make(map[string]option, len(table))
	for _, o := range table {
		byName[o.name] = o
	}
	return byName
}

// UnmarshalCaddyfile sets up the config from Caddyfile tokens:
//
//	relay [<backend>...] {
//		backend           <backend...>
//		name              <service>
//		connect_timeout   <duration>
//		idle_timeout      <duration>
//		cooldown          <duration>
//		dns_ttl           <duration>
//		resolvers         <address...>
//		udp_reply_timeout <duration>
//		udp_responses     <count>
//		max_udp_sessions  <count>
//		grace_period      <duration>
//		shutdown_timeout  <duration>
//	}
//
// The order of backends is that of their writing; only backend may be
// repeated.
func (c *Config) UnmarshalCaddyfile(d *cfile.Dispenser) error {
	d.Next() // the name of the handler
	wrapper := d.Val()

	if err := addBackends(c, d.RemainingArgs()); err != nil {
		return d.WrapErr(err)
	}

	nesting := d.Nesting()
	seen := make(map[string]bool)
	for d.NextBlock(nesting) {
		o, ok := options[d.Val()]
		if !ok {
			return d.Errf("unrecognized %s option '%s'", wrapper, d.Val())
		}
		if seen[o.name] && !o.repeatable {
			return d.Errf("duplicate %s option '%s'", wrapper, o.name)
		}
		seen[o.name] = true

		args := d.RemainingArgs()
		if len(args) < o.min || len(args) > o.max {
			return d.ArgErr()
		}
		if err := o.set(c, args); err != nil {
			return d.WrapErr(fmt.Errorf("%s: %w", o.name, err))
		}
		if blockFollows(d) {
			return d.Errf("malformed %s option '%s': blocks are not supported", wrapper, o.name)
		}
	}
	if d.Nesting() > nesting {
		return d.EOFErr()
	}
	if len(c.Backends) == 0 {
		return d.Errf("%s needs at least one backend, as host:port", wrapper)
	}
	return nil
}

// blockFollows reports whether the line goes on after its arguments, which
// only a block can bring about, an empty one included.
func blockFollows(d *cfile.Dispenser) bool {
	if d.NextLine() {
		d.Prev()
		return false
	}
	return d.Next()
}

// placeholder is text whose value is known only when the config is loaded,
// and which is checked then.
var placeholder = regexp.MustCompile(`\{[^{}]+\}`)

func addBackends(c *Config, args []string) error {
	for _, text := range args {
		if _, err := ParseBackend(text); err != nil && !placeholder.MatchString(text) {
			return err
		}
		c.Backends = append(c.Backends, text)
	}
	return nil
}

func setName(c *Config, args []string) error {
	if args[0] == "" {
		return errors.New("must not be empty")
	}
	if err := checkServiceName(args[0]); err != nil {
		return err
	}
	c.Name = args[0]
	return nil
}

func setResolvers(c *Config, args []string) error {
	for _, text := range args {
		if _, err := parseResolver(text); err != nil && !placeholder.MatchString(text) {
			return err
		}
	}
	c.Resolvers = args
	return nil
}

func (s durationSetting) set(c *Config, args []string) error {
	d, err := caddy.ParseDuration(args[0])
	if err != nil {
		return fmt.Errorf("must be a duration such as 5s, 10m or 1h, got %q", args[0])
	}
	if err := s.check(d); err != nil {
		return err
	}
	value := caddy.Duration(d)
	*s.get(c) = &value
	return nil
}

func (s countSetting) set(c *Config, args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("must be a whole number, got %q", args[0])
	}
	if err := s.check(n); err != nil {
		return err
	}
	*s.get(c) = &n
	return nil
}

var _ cfile.Unmarshaler = (*Config)(nil)
