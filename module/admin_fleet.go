package module

import (
	"net/http"

	"github.com/async-relay/caddy-relay/internal/fleet"
	"github.com/async-relay/caddy-relay/module/api"
)

func getFleet(*http.Request) (any, error) {
	member := membership.member.Load()
	if member == nil {
		return nil, apiErrorf(http.StatusNotFound, "no fleet: the config has no share")
	}
	return apiFleet(member.Status()), nil
}

func apiFleet(s fleet.Status) api.Fleet {
	v := api.Fleet{Name: s.Fleet, Node: s.Node, Nodes: []api.FleetNode{}, Storage: api.FleetStorage{
		Reads: s.Counts.Loads + s.Counts.Lists, Writes: s.Counts.Stores + s.Counts.Deletes, Failed: s.Counts.Failed,
	}}
	if s.Failing != nil {
		v.Storage.Error, v.Storage.FailingFor = s.Failing.Error(), s.FailingFor.Seconds()
	}
	names := make(map[string]string) // of the services, by their identity in the fleet
	for _, o := range visibleServices() {
		names[o.shareKey()] = o.Name
	}
	for _, p := range s.Peers {
		n := api.FleetNode{Node: p.Node, Age: p.Age.Seconds(), Vanished: p.Vanished}
		for _, t := range p.Down {
			n.Down = append(n.Down, api.FleetDown{Service: names[t.Service], Backend: t.Backend, Network: t.Network})
		}
		v.Nodes = append(v.Nodes, n)
	}
	return v
}
