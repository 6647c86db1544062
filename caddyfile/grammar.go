package caddyfile

import (
	"errors"
	"fmt"
	"regexp"

	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// apply sets the option and adds its name to errors.
func (o option) apply(c *Config, args []string) error {
	if err := o.set(c, args); err != nil {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	if o.short == "" || len(args) == 0 {
		return nil
	}
	return o.block[o.short].apply(c, args)
}

// UnmarshalCaddyfile sets up the config from Caddyfile tokens:
//
//	relay [<backend>...] {
//		backend                <backend...>
//		name                   <service>
//		connect_timeout        <duration>
//		idle_timeout           <duration>
//		cooldown               <duration>
//		dns_ttl                <duration>|record [<min> [<max>]]
//		resolvers              <server...>
//		prefer                 ipv4|ipv6
//		only                   ipv4|ipv6
//		health_check [<interval>] {
//			network  tcp|udp|both
//			interval <duration>
//			timeout  <duration>
//			rise     <count>
//			port     <port>
//			send     <payload>
//			expect   <payload>
//			http     <path> [<status...>]
//			host     <name>
//			redis    [any|master]
//			postgres
//			dns      <name>
//		}
//		failback               [on|off|move]
//		event_hook <command> [<argument>...] {
//			events  <event...>
//			timeout <duration>
//		}
//		hedge                  <duration>
//		first_byte_timeout     <duration>
//		rescue                 <size>
//		hold                   <duration>
//		on_down                keep|cut
//		udp_reply_timeout      <duration>
//		udp_responses          <count>
//		allow                  <prefix...>
//		deny                   <prefix...>
//		max_connections        <count>
//		max_connections_per_ip <count>
//		max_udp_sessions       <count>
//		grace_period           <duration>
//		shutdown_timeout       <duration>
//		keepalive              <duration>|off
//		access_log             off|tcp|all
//		proxy_protocol         off|v1|v2
//		proxy_protocol_udp     first|every
//	}
//
// The backends are in the order in which they are written. Only the options
// backend, allow and deny may be repeated.
//
// Errors begin with the name of the service or, if the block has none, with the
// file and line where the block begins.
func (c *Config) UnmarshalCaddyfile(d *cfile.Dispenser) error {
	d.Next() // the name of the handler
	where := describeBlock(*d)
	if err := c.readRelay(d); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

// describeBlock returns what identifies a relay in errors. d is a copy, so the
// block is read twice: its name may come after the error.
func describeBlock(d cfile.Dispenser) string {
	where := fmt.Sprintf("service at %s:%d", d.File(), d.Line())
	d.RemainingArgs()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		args := d.RemainingArgs()
		if option == "name" && len(args) > 0 && args[0] != "" {
			return fmt.Sprintf("service %q", args[0])
		}
		for inner := d.Nesting(); d.NextBlock(inner); {
			d.RemainingArgs()
		}
	}
	return where
}

func (c *Config) readRelay(d *cfile.Dispenser) error {
	wrapper := d.Val()
	if err := addBackends(c, d.RemainingArgs()); err != nil {
		return d.WrapErr(err)
	}
	if err := options.read(d, c, wrapper, make(map[string]bool)); err != nil {
		return err
	}
	if len(c.Backends) == 0 {
		return d.Errf("%s requires at least one backend, as host:port", wrapper)
	}
	return nil
}

// read parses the block of the option wrapper if one follows. seen holds the
// options of the block that were already set.
func (b block) read(d *cfile.Dispenser, c *Config, wrapper string, seen map[string]bool) error {
	nesting := d.Nesting()
	for d.NextBlock(nesting) {
		name := d.Val()
		o, ok := b[name]
		if !ok {
			return d.Errf("unrecognized %s option '%s'", wrapper, name)
		}
		if seen[name] && !o.repeatable {
			return d.Errf("duplicate %s option '%s'", wrapper, name)
		}
		seen[name] = true

		args := d.RemainingArgs()
		if len(args) < o.min || len(args) > o.max {
			return d.ArgErr()
		}
		if err := o.apply(c, args); err != nil {
			return d.WrapErr(err)
		}
		if o.block != nil {
			inside := map[string]bool{o.short: len(args) > 0}
			if err := o.block.read(d, c, name, inside); err != nil {
				return err
			}
			if moreOnLine(d) {
				return d.Errf("malformed %s option '%s': unexpected text after its block", wrapper, name)
			}
			if o.check != nil {
				if err := o.check(c); err != nil {
					return d.WrapErr(err)
				}
			}
		} else if moreOnLine(d) {
			return d.Errf("malformed %s option '%s': blocks are not supported", wrapper, name)
		}
	}
	if d.Nesting() > nesting {
		return d.EOFErr()
	}
	return nil
}

// moreOnLine reports whether the current line has more tokens. After the
// arguments this can only be a block, which may be empty.
func moreOnLine(d *cfile.Dispenser) bool {
	if d.NextLine() {
		d.Prev()
		return false
	}
	return d.Next()
}

// placeholder matches a placeholder. Text with one is checked when the config is
// loaded, because its value is known only then.
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

func setHealthCheck(c *Config, _ []string) error {
	c.HealthCheck = &HealthCheck{}
	return nil
}

// checkHealthCheck rejects a timeout above the interval. Other problems between
// options may depend on placeholders.
func checkHealthCheck(c *Config) error {
	if err := c.HealthCheck.checkTimeout(); err != nil {
		return fmt.Errorf("health_check.timeout: %w", err)
	}
	return nil
}

// setEventHook sets the command and its arguments.
func setEventHook(c *Config, args []string) error {
	if err := checkCommand(args[0]); err != nil {
		return err
	}
	for _, arg := range args[1:] {
		if err := CheckArgument(arg); err != nil {
			return err
		}
	}
	c.EventHook = &EventHook{Command: args[0], Args: args[1:]}
	return nil
}

func getEventHook(c *Config) ([]string, bool) {
	if c.EventHook == nil {
		return nil, false
	}
	return append([]string{c.EventHook.Command}, c.EventHook.Args...), true
}

func setEvents(c *Config, args []string) error {
	for _, event := range args {
		if err := checkEvent(event); err != nil {
			return err
		}
	}
	c.EventHook.Events = args
	return nil
}

// setFailback treats a missing argument as "on".
func setFailback(c *Config, args []string) error {
	word := "on"
	if len(args) == 1 {
		word = args[0]
	}
	switch word {
	case "on", "true":
		c.Failback = FailbackOn
	case "off", "false":
		c.Failback = FailbackOff
	case "move":
		c.Failback = FailbackMove
	default:
		return fmt.Errorf("must be on, off, move, true or false, got %s", Quoted(word))
	}
	return nil
}

var _ cfile.Unmarshaler = (*Config)(nil)
