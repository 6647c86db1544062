package module

import (
	"net/http"
	"time"

	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/module/page"
)

// pageRelays gives the live page access to the running relays.
type pageRelays struct{}

// Endpoints implements page.Relays. The page has all endpoints that change
// something. What it shows comes with its events. They leave out what may be secret:
// the resolvers of the DNS caches, which may have a token in their path.
func (pageRelays) Endpoints() (list []page.Endpoint) {
	for _, e := range endpoints {
		if e.method != http.MethodGet {
			list = append(list, page.Endpoint{Method: e.method, Pattern: e.pattern, Handle: e.handle})
		}
		if e.get != nil {
			list = append(list, page.Endpoint{Method: http.MethodGet, Pattern: e.pattern, Handle: e.get})
		}
	}
	return list
}

// Services implements page.Relays.
func (pageRelays) Services() []page.Service {
	now := time.Now()
	visible := visibleServices()
	list := make([]page.Service, len(visible))
	for i, s := range visible {
		list[i] = page.Service{
			Key: s.key, Entries: s.Journal.Added(), Service: s.apiService(now),
			Journal: func(n uint64) []api.JournalEntry { return apiJournal(s.Journal.After(n)) },
		}
	}
	return list
}

// DNS implements page.Relays.
func (pageRelays) DNS() []api.DNSEntry { return apiDNS(time.Now()) }

// Interface guard.
var _ page.Relays = pageRelays{}
