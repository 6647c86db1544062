package module

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/async-relay/caddy-relay/module/api"
)

// visibleServices returns the services that the admin API shows, sorted by
// name: those of the current config, and removed ones with active relays. The
// other services belong to a config that has not started and may be rejected.
func visibleServices() []*service {
	var list []*service
	services.Range(func(_, value any) bool {
		if s := value.(*service); s.current.Load() != nil || !s.Idle() {
			list = append(list, s)
		}
		return true
	})
	slices.SortFunc(list, func(a, b *service) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.key, b.key))
	})
	return list
}

// findService returns the service with that name. Unnamed relays with the same
// backends are different services of one name, so there may be several. It
// returns the one that the current config has, an error if the config has
// several, and a removed one if the config has none.
func findService(name string) (*service, error) {
	var names []string
	var removed *service
	var current []*service
	for _, s := range visibleServices() {
		names = append(names, s.Name)
		switch {
		case s.Name != name:
		case s.current.Load() == nil:
			removed = s
		default:
			current = append(current, s)
		}
	}
	switch {
	case len(current) == 1:
		return current[0], nil
	case len(current) > 1:
		return nil, apiErrorf(http.StatusConflict, "%d services are called %q: give each a name in the config", len(current), name)
	case removed != nil:
		return removed, nil
	default:
		return nil, errUnknown("service", name, slices.Compact(names))
	}
}

func apiServices(now time.Time) []api.Service {
	list := []api.Service{}
	for _, s := range visibleServices() {
		list = append(list, s.apiService(now))
	}
	return list
}

func getServices(*http.Request) (any, error) {
	return apiServices(time.Now()), nil
}

func getService(r *http.Request) (any, error) {
	s, err := findService(r.PathValue("service"))
	if err != nil {
		return nil, err
	}
	return s.apiService(time.Now()), nil
}
