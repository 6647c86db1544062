package asyncrelay

import (
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v4"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// defaultCooldown is the cooldown of a YAML service without backend_cooldown, as
// in async-relay. It differs from the default of Config, which is 0.
const defaultCooldown = 30 * time.Minute

// service is one element of the list of services.
type service struct {
	name     string
	label    string // its name in reports
	line     int
	node     *yaml.Node // a mapping, unless it has problems
	listen   listenAddress
	tcp, udp bool
	config   caddyfile.Config // with texts as in the file: braces are not escaped
}

const servicesExpected = "a list of services"

// readServices reads all services. A service with problems is read as far as
// possible.
func readServices(root fields) (services []service) {
	list, ok := root.required("services", servicesExpected)
	if !ok {
		return nil
	}
	items, ok := list.list(servicesExpected)
	if !ok {
		return nil
	}
	if len(items) == 0 {
		list.fail("must be %s with at least one, got an empty list", servicesExpected)
	}

	lines := make(map[string]int) // by name
	for i, item := range items {
		item.at = place{service: serviceLabel(item.node, i)}
		s := readService(item)
		if first, ok := lines[s.name]; ok && s.name != "" {
			item.rep.fail(s.line, item.at.key("name"), "must be unique, first used on line %d", first)
			continue
		}
		lines[s.name] = s.line
		services = append(services, s)
	}
	checkListenConflicts(root.rep, services)
	return services
}

func readService(v value) service {
	s := service{label: v.at.service, line: v.line, node: v.node}
	f, ok := v.mapping(serviceKeys...)
	if !ok {
		return s
	}
	if v, ok := f.required("name", "text"); ok {
		s.name = readName(v)
	}
	if v, ok := f.required("listen", "a mapping with address and port"); ok {
		s.listen = readListen(v)
	}
	if v, ok := f.required("backends", backendsExpected); ok {
		s.config.Backends = readBackends(v)
	}
	s.tcp, s.udp = true, true
	if v, ok := f.get("protocol"); ok {
		s.tcp, s.udp = readProtocol(v)
	}
	cooldown := defaultCooldown
	if v, ok := f.get("backend_cooldown"); ok {
		cooldown, _ = v.seconds(true)
	}
	s.config.Name, s.config.Cooldown = s.name, pointer(cooldown)
	if v, ok := f.get("health_check"); ok {
		readHealthCheck(v, &s)
	}
	if v, ok := f.get("event_hook"); ok {
		s.config.EventHook = readEventHook(v)
	}
	f.readOptions(&s.config, "")
	s.config.EachProblem(func(field string, err error) {
		f.failOnce(keyOfField(field), err)
	})
	return s
}

func pointer(d time.Duration) *caddy.Duration { return (*caddy.Duration)(&d) }

func readName(v value) string {
	name, ok := v.rawText("text")
	if !ok {
		return ""
	}
	if err := new(caddyfile.Config).Set("name", name); err != nil {
		v.fail("%v", err)
		return ""
	}
	return name
}

func readProtocol(v value) (tcp, udp bool) {
	const what = "tcp, udp or both"
	text, ok := v.text(what)
	if !ok {
		return false, false
	}
	switch strings.ToLower(text) {
	case "tcp":
		return true, false
	case "udp":
		return false, true
	case "both":
		return true, true
	}
	v.mustBe(what)
	return false, false
}

const backendsExpected = "a list of backends, each host:port"

func readBackends(v value) (texts []string) {
	items, ok := v.list(backendsExpected)
	if !ok {
		return nil
	}
	if len(items) == 0 {
		v.fail("must be %s, got an empty list", backendsExpected)
	}
	first := make(map[caddyfile.Backend]int)
	for _, item := range items {
		text, ok := item.text(`text such as "10.0.0.1:80"`)
		if !ok {
			continue
		}
		text = strings.Trim(text, " \t")
		b, err := caddyfile.ParseBackend(text)
		if err != nil {
			item.fail("%v", err)
			continue
		}
		if line, ok := first[b.Identity()]; ok {
			item.fail("%q: listed twice, first on line %d", text, line)
			continue
		}
		first[b.Identity()] = item.line
		texts = append(texts, text)
	}
	return texts
}
