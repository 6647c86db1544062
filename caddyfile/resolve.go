package caddyfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Resolved returns a copy of the config with its {env.*} and {file.*}
// placeholders replaced. They may be in the name, the backends, the resolvers, the
// client addresses, the texts of health checks and the command line of the event hook. The
// error lists every placeholder without a value and every other placeholder:
// the config is loaded before any client exists, so nothing else has a value. Only
// the port of a backend may be {port}, which stays.
func (c Config) Resolved(repl *caddy.Replacer) (Config, error) {
	var problems []error
	r := c.ReplaceTexts(func(field, text string) string {
		out, err := repl.ReplaceFunc(text, func(placeholder string, value any) (any, error) {
			if field == "backends" && "{"+placeholder+"}" == clientPort {
				return clientPort, nil // has no value before there is a client
			}
			return loadTimeOnly(placeholder, value)
		})
		if err != nil {
			problems = append(problems, c.problem(field, err))
		}
		return out
	})
	if err := errors.Join(problems...); err != nil {
		return Config{}, err
	}
	return r, nil
}

// ReplaceTexts returns a copy of the config in which replace was applied to each text
// that may have placeholders.
func (c Config) ReplaceTexts(replace func(field, text string) string) Config {
	replaceAll := func(field string, texts []string) (out []string) {
		for _, text := range texts {
			out = append(out, replace(field, text))
		}
		return out
	}
	r := c
	r.Name = replace("name", c.Name)
	r.Backends = replaceAll("backends", c.Backends)
	r.Resolvers = replaceAll("resolvers", c.Resolvers)
	r.Allow = replaceAll("allow", c.Allow)
	r.Deny = replaceAll("deny", c.Deny)
	if c.HealthCheck != nil {
		check := *c.HealthCheck
		check.Send = replace("health_check.send", check.Send)
		check.Expect = replace("health_check.expect", check.Expect)
		check.HTTP = replace("health_check.http", check.HTTP)
		check.Host = replace("health_check.host", check.Host)
		check.DNS = replace("health_check.dns", check.DNS)
		r.HealthCheck = &check
	}
	if c.EventHook != nil {
		hook := *c.EventHook
		hook.Command = replace("event_hook.command", hook.Command)
		hook.Args = replaceAll("event_hook.args", hook.Args)
		r.EventHook = &hook
	}
	return r
}

// loadTimeOnly accepts the placeholders that have a value when the config is
// loaded, and rejects all others.
func loadTimeOnly(placeholder string, value any) (any, error) {
	env, isEnv := strings.CutPrefix(placeholder, "env.")
	file, isFile := strings.CutPrefix(placeholder, "file.")
	switch empty := caddy.ToString(value) == ""; {
	case isEnv && empty:
		return nil, fmt.Errorf("environment variable %s is not set or empty", env)
	case isFile && empty:
		return nil, fmt.Errorf("file %s cannot be read or is empty", file)
	case !isEnv && !isFile:
		return nil, fmt.Errorf("placeholder {%s} not allowed here, use {env.*} or {file.*}", placeholder)
	}
	return value, nil
}
