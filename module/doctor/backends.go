package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/module/api"
)

// slowLookup is the duration from which a lookup of a name is reported.
const slowLookup = time.Second

// tested is a backend with the result of its test.
type tested struct {
	service string // empty: a target of the command line
	backend caddyfile.Backend
	result  api.Test
}

// works reports whether a backend of the service works, as far as they could be
// tested.
func works(service []tested) bool {
	return slices.ContainsFunc(service, func(t tested) bool { return t.result.OK })
}

// checkBackends tests all backends of the plan and the targets of the command line in
// parallel. A service works as long as one of its backends does.
func (e *examination) checkBackends() {
	relays := slices.Clone(e.plan.relays)
	for _, text := range e.Targets {
		if _, err := caddyfile.ParseBackend(text); err != nil {
			e.fail("backend", "", "%v", err)
			continue
		}
		options := caddyfile.Config{Backends: []string{text}}.Options()
		options.Service = ""
		relays = append(relays, relay{options: options, networks: []string{"tcp"}})
	}
	results := make([][]tested, len(relays))
	var all sync.WaitGroup
	for i, r := range relays {
		results[i] = make([]tested, len(r.options.Backends))
		for j, b := range r.options.Backends {
			all.Go(func() { // ends with the timeouts of the relay
				result := e.Test(e.ctx, r.options, r.networks, b)
				if r.check != "" {
					result.Check = r.check
				}
				results[i][j] = tested{r.options.Service, b, result}
			})
		}
	}
	all.Wait()
	e.checkNames(results)
	for _, service := range results {
		e.checkService(service)
	}
}

// checkNames reports the lookup of each name once: that of a service without a
// working backend, if there is one.
func (e *examination) checkNames(results [][]tested) {
	var order []string
	critical := make(map[string]bool)
	result := make(map[string]api.Test)
	for _, service := range results {
		for _, t := range service {
			if t.backend.Addr.IsValid() {
				continue
			}
			host := t.backend.Host
			if _, seen := result[host]; !seen {
				order = append(order, host)
				result[host] = t.result
			}
			if t.result.Error != "" && !works(service) {
				critical[host], result[host] = true, t.result
			}
		}
	}
	for _, host := range order {
		t := result[host]
		took := time.Duration(t.Lookup * float64(time.Millisecond)).Round(time.Millisecond)
		status := StatusWarn
		if critical[host] {
			status = StatusFail
		}
		switch addresses := strings.Join(addressesOf(t), ", "); {
		case t.Error != "":
			e.add(status, "dns", "check the name, and the resolvers of the service or of this machine", "%s: %s", host, t.Error)
		case took >= slowLookup:
			e.warn("dns", "a client waits for that after dns_ttl or a failure; check the resolvers", "%s: %s after %s", host, addresses, took)
		default:
			e.ok("dns", "%s: %s after %s", host, addresses, took)
		}
	}
}

// addressesOf returns the tested addresses, without ports and duplicates.
func addressesOf(t api.Test) (addresses []string) {
	for _, d := range t.Dials {
		address := d.Address
		if i := strings.LastIndexByte(address, ':'); i >= 0 {
			address = address[:i]
		}
		if address = strings.Trim(address, "[]"); !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// checkService reports the backends of a service.
func (e *examination) checkService(service []tested) {
	status, advice := StatusFail, "no backend of the service works, so clients are refused: start it, or correct its address"
	if works(service) {
		status, advice = StatusWarn, "clients are served by the other backends; start this one, or take it out of the config"
	}
	for _, t := range service {
		name := t.backend.Text
		switch t.service {
		case name: // a relay without a name
		case "":
			advice = "start it, or correct the address"
		default:
			name += " of " + t.service
		}
		untested := ""
		for _, network := range slices.Sorted(maps.Keys(t.result.Untested)) {
			untested += fmt.Sprintf("; %s not tested: %s", network, t.result.Untested[network])
		}
		switch {
		case t.result.OK:
			e.ok("backend", "%s: %s%s", name, passed(t.result), untested)
		case t.result.Error != "":
			e.add(status, "backend", advice, "%s: its name has no address", name)
		default:
			e.add(status, "backend", advice, "%s: %s", name, failures(t.result))
		}
	}
}

func passed(t api.Test) string {
	var parts []string
	for _, d := range t.Dials {
		if d.OK {
			parts = append(parts, fmt.Sprintf("%s %s answered after %.3gms", d.Network, d.Address, d.Latency))
		} else {
			parts = append(parts, fmt.Sprintf("%s %s failed", d.Network, d.Address))
		}
	}
	if len(parts) == 0 {
		return "nothing to test"
	}
	return fmt.Sprintf("%s (%s)", strings.Join(parts, ", "), t.Check)
}

func failures(t api.Test) string {
	var parts []string
	for _, d := range t.Dials {
		if !d.OK {
			parts = append(parts, fmt.Sprintf("%s %s: %s", d.Network, d.Address, d.Error))
		}
	}
	return strings.Join(parts, ", ")
}
