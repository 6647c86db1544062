package caddyfile

import (
	"math"
	"reflect"
	"slices"
	"strings"
)

// option describes one option of a block. The table of options is the grammar:
// unknown options, repeated options and wrong argument counts are rejected in
// the same way for all of them. The flags of commands, the options of YAML files
// and the JSON schema come from the same table.
type option struct {
	name       string // "outer.inner" if it belongs to the block of another option
	value      string // what its arguments stand for, for the help of flags
	usage      string // what it does, for the help of flags and the schema
	min, max   int    // number of arguments
	repeatable bool
	list       bool // each argument is an element of a list
	kind       Kind
	bare       string // the argument that its absence stands for; "": needs an argument
	set        func(c *Config, args []string) error
	get        func(c *Config) (args []string, isSet bool) // the inverse of set

	block block                 // the block that may follow; nil: none
	check func(c *Config) error // checks the whole option after its block; nil: nothing to check
	short string                // the option of block that is set by an argument; "": none
}

// block holds the options that a block may contain, by their inner names.
type block map[string]option

var options, orderedOptions = optionTable()

// Kind tells how the argument of an option is written.
type Kind int

const (
	KindText     Kind = iota // any text
	KindDuration             // 5s, 10m
	KindNumber               // of things or bytes
	KindWord                 // one of a few, which the value lists
)

// optionTable returns all options as the blocks of the grammar, and as a list in
// the order of the fields of [Config].
func optionTable() (block, []option) {
	const many = math.MaxInt
	table := []option{
		{name: "backend", value: "<host:port>...", usage: "A backend; the first one that works serves a client", min: 1, max: many, list: true, repeatable: true,
			set: addBackends, get: func(c *Config) ([]string, bool) { return c.Backends, len(c.Backends) > 0 }},
		{name: "name", value: "<service>", usage: "The name of the service in logs, metrics and the admin API (default: the backends)", min: 1, max: 1,
			set: setName, get: func(c *Config) ([]string, bool) { return []string{c.Name}, c.Name != "" }},
		{name: "dns_ttl", value: "<duration>|record [<min> [<max>]]", usage: "How long the addresses of a name are used before it is looked up again; record: for the TTL of the DNS records (default: 1h)", kind: KindDuration, min: 1, max: many,
			set: setDNSTTL, get: getDNSTTL},
		{name: "resolvers", value: "<server>...", usage: "The DNS servers to query for the names of backends (default: the system's resolver)", min: 1, max: many, list: true,
			set: setResolvers, get: func(c *Config) ([]string, bool) { return c.Resolvers, len(c.Resolvers) > 0 }},
		{name: "health_check", value: "<interval>", usage: "Probes all backends at regular intervals", max: 1, bare: "on",
			set: setHealthCheck, get: func(c *Config) ([]string, bool) { return nil, c.HealthCheck != nil }, block: block{}, short: "interval", check: checkHealthCheck},
		{name: "health_check.http", value: "<path> [<status>...]", usage: "Probes with an HTTP request for this path, and expects one of the statuses (default: 2xx)", min: 1, max: many,
			set: setHTTP, get: getHTTP},
		{name: "health_check.host", value: "<name>", usage: "The Host header of the HTTP request (default: the probed address)", min: 1, max: 1,
			set: setHost, get: ofHealthCheckText(func(h *HealthCheck) string { return h.Host })},
		{name: "health_check.redis", value: strings.Join(redisRoles.words, "|"), usage: "Probes a Redis server: any, or one that must be a master", kind: KindWord, max: 1, bare: redisRoles.words[0],
			set: setRedis, get: ofHealthCheckText(func(h *HealthCheck) string { return h.Redis })},
		{name: "health_check.postgres", usage: "Probes a PostgreSQL server", bare: "on",
			set: setPostgres, get: func(c *Config) ([]string, bool) { return nil, c.HealthCheck != nil && c.HealthCheck.Postgres }},
		{name: "health_check.dns", value: "<name>", usage: "Probes a DNS server with a query for the addresses of this name", min: 1, max: 1,
			set: setDNS, get: ofHealthCheckText(func(h *HealthCheck) string { return h.DNS })},
		{name: "allow", value: "<prefix>...", usage: "The client addresses that are served, as prefixes, addresses or private_ranges (default: all)", min: 1, max: many, list: true, repeatable: true,
			set: addAllow, get: func(c *Config) ([]string, bool) { return c.Allow, len(c.Allow) > 0 }},
		{name: "deny", value: "<prefix>...", usage: "The client addresses that are refused (default: none)", min: 1, max: many, list: true, repeatable: true,
			set: addDeny, get: func(c *Config) ([]string, bool) { return c.Deny, len(c.Deny) > 0 }},
		{name: "failback", value: "on|off|move", usage: "Whether a recovered backend returns to its configured place, and whether it takes clients back (move); requires health_check (default: off)", kind: KindWord, max: 1, bare: "on",
			set: setFailback, get: func(c *Config) ([]string, bool) { return []string{c.Failback.word()}, c.Failback != FailbackOff }},
		{name: "event_hook", value: "<command> [<argument>...]", usage: "A command to run when a backend fails or recovers", min: 1, max: many,
			set: setEventHook, get: getEventHook, block: block{}},
		{name: "event_hook.events", value: "<event>...", usage: "The events that run the command: " + strings.Join(hookEvents, ", ") + " (default: all)", min: 1, max: many, list: true,
			set: setEvents, get: func(c *Config) ([]string, bool) {
				if c.EventHook == nil {
					return nil, false
				}
				return c.EventHook.Events, len(c.EventHook.Events) > 0
			}},
	}
	one := func(k Kind, name, value, usage string, set func(*Config, []string) error, get func(*Config) (string, bool)) {
		table = append(table, option{kind: k, name: name, value: value, usage: usage, min: 1, max: 1, set: set, get: func(c *Config) ([]string, bool) {
			text, isSet := get(c)
			return []string{text}, isSet
		}})
	}
	for _, s := range durationSettings {
		one(KindDuration, s.field, s.value(), s.usage, s.set, s.text)
	}
	for _, s := range countSettings {
		one(KindNumber, s.field, s.value(), s.usage, s.set, s.text)
	}
	for _, s := range sizeSettings {
		one(KindNumber, s.field, "<size>", s.usage, s.set, s.text)
	}
	for _, s := range choiceSettings {
		one(KindWord, s.field, strings.Join(s.words, "|"), s.usage, s.set, s.text)
	}
	for _, s := range payloadSettings {
		one(KindText, s.field, "<payload>", s.usage, s.set, s.text)
	}
	order := fieldOrder()
	slices.SortStableFunc(table, func(a, b option) int { return order[a.name] - order[b.name] })

	all := make(block, len(table))
	for _, o := range table {
		if o.block != nil { // before the options of the block
			all[o.name] = o
		}
	}
	for _, o := range table {
		if outer, inner, nested := strings.Cut(o.name, "."); nested {
			all[outer].block[inner] = o
		} else {
			all[o.name] = o
		}
	}
	return all, table
}

// fieldOrder returns the position of each option among the fields of [Config] and
// of the objects in it.
func fieldOrder() map[string]int {
	order := make(map[string]int)
	var visit func(t reflect.Type, prefix string)
	visit = func(t reflect.Type, prefix string) {
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			order[prefix+name] = len(order)
			if of := t.Field(i).Type; of.Kind() == reflect.Pointer && of.Elem().Kind() == reflect.Struct {
				visit(of.Elem(), prefix+name+".")
			}
		}
	}
	visit(reflect.TypeFor[Config](), "")
	order["backend"] = order["backends"]
	return order
}
