package module

import (
	"net/http"
	"time"

	"github.com/async-relay/caddy-relay/handler"
)

// explanation is why a queue stands as it does: the queue, and what happened
// to it, the oldest first.
type explanation struct {
	Service  string        `json:"service"`
	Order    []string      `json:"order"`
	Backends []backendView `json:"backends"`
	Journal  []entryView   `json:"journal"`
}

// entryView is an entry of the journal.
type entryView struct {
	Time     time.Time    `json:"time"`
	Kind     handler.Kind `json:"kind"`
	Network  string       `json:"network,omitempty"`
	Backend  string       `json:"backend,omitempty"`
	Address  string       `json:"address,omitempty"`
	Cause    string       `json:"cause,omitempty"`
	By       string       `json:"by,omitempty"`
	Order    []string     `json:"order,omitempty"`
	Sentence string       `json:"sentence"`
}

func getExplanation(r *http.Request) (any, error) {
	if !r.URL.Query().Has("service") {
		return nil, apiErrorf(http.StatusBadRequest, "which service? The query needs service=NAME")
	}
	s, err := named(r.URL.Query().Get("service"))
	if err != nil {
		return nil, err
	}
	view := s.view(time.Now())
	e := explanation{Service: s.Name, Order: s.Pool.Order(), Backends: view.Backends, Journal: []entryView{}}
	for _, entry := range s.Journal.Entries() {
		e.Journal = append(e.Journal, entryView{
			Time: entry.Time, Kind: entry.Kind, Network: entry.Network, Backend: entry.Backend, Address: entry.Address,
			Cause: entry.Cause, By: entry.By, Order: entry.Order, Sentence: entry.String(),
		})
	}
	return e, nil
}
