package caddyfile

import (
	"strings"
	"time"
)

// defaultCooldown is what a service of the original has unless it says
// otherwise. A relay written for Caddy has none.
const defaultCooldown = 30 * time.Minute

// service is one entry of the list of services.
type service struct {
	name     string
	label    string // what reports call it
	line     int
	listen   listenAddress
	tcp, udp bool
	backends []string
	cooldown time.Duration
	health   *healthCheckJSON // nil: none
	hook     *eventHookJSON   // nil: none
}

const servicesExpected = "a list of services"

// readServices reads all services, those with problems included as far as they
// can be read.
func readServices(root fields) (services []service) {
	list, ok := root.need("services", servicesExpected)
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

	named := make(map[string]int)
	for i, item := range items {
		item.at = place{service: serviceLabel(item.node, i)}
		s := readService(item)
		if first, ok := named[s.name]; ok && s.name != "" {
			item.rep.fail(s.line, item.at.key("name"), "must be unique, but the service on line %d has it too", first)
			continue
		}
		named[s.name] = s.line
		services = append(services, s)
	}
	checkClashes(root.rep, services)
	return services
}

func readService(v value) service {
	s := service{label: v.at.service, line: v.line, cooldown: defaultCooldown}
	f, ok := v.mapping("name", "protocol", "listen", "backends", "backend_cooldown", "health_check", "event_hook")
	if !ok {
		return s
	}
	if v, ok := f.need("name", "text"); ok {
		s.name = readName(v)
	}
	if v, ok := f.need("listen", "a mapping with address and port"); ok {
		s.listen = readListen(v)
	}
	if v, ok := f.need("backends", backendsExpected); ok {
		s.backends = readBackends(v)
	}
	s.tcp, s.udp = true, true
	if v, ok := f.get("protocol"); ok {
		s.tcp, s.udp = readProtocol(v)
	}
	if v, ok := f.get("backend_cooldown"); ok {
		s.cooldown, _ = v.seconds(true)
	}
	if v, ok := f.get("health_check"); ok {
		s.health = readHealthCheck(v, s.tcp)
	}
	if v, ok := f.get("event_hook"); ok {
		s.hook = readEventHook(v)
	}
	return s
}

func readName(v value) string {
	name, ok := v.word("text")
	if !ok {
		return ""
	}
	if err := checkServiceName(name); err != nil {
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
	v.expected(what)
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
	first := make(map[endpoint]int)
	for _, item := range items {
		text, ok := item.text(`text such as "10.0.0.1:80"`)
		if !ok {
			continue
		}
		text = strings.Trim(text, " \t")
		b, err := ParseBackend(text)
		if err == nil && first[b.endpoint()] != 0 {
			item.fail("%q: must be listed once, is the same backend as on line %d", text, first[b.endpoint()])
			continue
		}
		if err != nil {
			item.fail("%v", err)
			continue
		}
		first[b.endpoint()] = item.line
		texts = append(texts, text)
	}
	return texts
}
