package module

import (
	"net/http"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module/api"
)

func getExplanation(r *http.Request) (any, error) {
	if !r.URL.Query().Has("service") {
		return nil, apiErrorf(http.StatusBadRequest, `missing query parameter "service"`)
	}
	s, err := findService(r.URL.Query().Get("service"))
	if err != nil {
		return nil, err
	}
	v := s.apiService(time.Now())
	e := api.Explanation{Service: s.Name, Order: s.Pool.Order(), Backends: v.Backends, Check: v.Check, Journal: []api.JournalEntry{}}
	e.Journal = append(e.Journal, apiJournal(s.Journal.Entries())...)
	return e, nil
}

func apiJournal(entries []handler.Entry) (list []api.JournalEntry) {
	for _, entry := range entries {
		list = append(list, api.JournalEntry{
			Time: entry.Time, Kind: string(entry.Kind), Network: entry.Network, Backend: entry.Backend, Address: entry.Address,
			Cause: entry.Cause, By: entry.By, Order: entry.Order, ByCheck: entry.ByCheck, Sentence: entry.String(),
		})
	}
	return list
}
