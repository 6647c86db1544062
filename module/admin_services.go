package module

import (
	"cmp"
	"net/http"
	"slices"
	"time"
)

// listed are the services that the admin API shows, by name: those in force,
// and those that no config has any more but that have relays at work. Others
// in the pool belong to a config that has not started, and may never.
func listed() []*service {
	var list []*service
	services.Range(func(_, value any) bool {
		if s := value.(*service); s.current.Load() != nil || s.busy() {
			list = append(list, s)
		}
		return true
	})
	slices.SortFunc(list, func(a, b *service) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.key, b.key))
	})
	return list
}

// named finds the service that a request is about. Unnamed relays with the
// same backends are services of one name; only one of them that is in force
// can be meant.
func named(name string) (*service, error) {
	var names []string
	var removed *service
	var inForce []*service
	for _, s := range listed() {
		names = append(names, s.Name)
		switch {
		case s.Name != name:
		case s.current.Load() == nil:
			removed = s
		default:
			inForce = append(inForce, s)
		}
	}
	switch {
	case len(inForce) == 1:
		return inForce[0], nil
	case len(inForce) > 1:
		return nil, apiErrorf(http.StatusConflict, "%d services are called %q: give each a name in the config", len(inForce), name)
	case removed != nil:
		return removed, nil
	default:
		return nil, unknown("service", name, slices.Compact(names))
	}
}

func getServices(*http.Request) (any, error) {
	now := time.Now()
	views := []serviceView{}
	for _, s := range listed() {
		views = append(views, s.view(now))
	}
	return views, nil
}

func getService(r *http.Request) (any, error) {
	s, err := named(r.PathValue("service"))
	if err != nil {
		return nil, err
	}
	return s.view(time.Now()), nil
}
