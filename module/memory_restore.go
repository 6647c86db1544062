package module

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module/memory"
	"github.com/async-relay/caddy-relay/resolver"
	"github.com/async-relay/caddy-relay/upstream"
)

// restoredBy is named in the journal for what operators did in an earlier process.
const restoredBy = "the process before this one"

// recall gives a new service the state that an earlier process has left. No config that
// has the service runs yet. Names are not looked up: the config may only be validated.
func (s *service) recall(r *memory.Record, set *settings) {
	saved := r.Services[s.recordKey()]
	s.mu.Lock()
	s.rememberTargetsLocked(saved)
	s.Pool.Update(expand(set.addresses, func(name string) []upstream.Address {
		return addressesOf(s.remembered[name].Targets)
	}), set.cooldown)
	s.restoreLocked(saved, r.SavedAt)
	s.mu.Unlock()
	restoreNames(r, set.dns, saved)
	s.restoreCounts(r)
}

// takeState gives a running service the state of another process.
func (s *service) takeState(r *memory.Record) {
	saved := r.Services[s.recordKey()]
	s.mu.Lock()
	set := s.current.Load()
	if set == nil {
		s.mu.Unlock()
		return // no config has the service
	}
	restoreNames(r, set.dns, saved)
	s.rememberTargetsLocked(saved)
	ended := s.restartFollowersLocked(set) // with the targets that they do not know
	s.remembered = nil
	s.Pool.Update(s.addressesLocked(set), set.cooldown)
	s.restoreLocked(saved, r.SavedAt)
	s.restartProbesLocked() // ends the strikes of checks that there are no more
	s.mu.Unlock()
	for _, f := range ended {
		f.close()
	}
	s.restoreCounts(r)
}

func (s *service) rememberTargetsLocked(saved memory.Service) {
	s.remembered = make(map[string]resolver.TargetList)
	for name, targets := range saved.Targets {
		s.remembered[name] = targetList(targets)
	}
}

// restoreLocked restores the queue and a hold.
func (s *service) restoreLocked(saved memory.Service, at time.Time) {
	if !saved.Queue.IsZero() {
		if spared := s.Pool.Restore(saved.Queue, time.Now()); spared != nil {
			processLog().Warn("backend not drained as before", zap.String("service", s.Name), zap.String("backend", spared.Text), zap.Error(upstream.ErrLastBackend))
		}
		s.Journal.Add(handler.Entry{Kind: handler.KindRestore, Cause: "state of " + at.UTC().Format(time.RFC3339), Order: s.Pool.Order()})
	}
	if left := time.Until(saved.HeldUntil); left > 0 {
		s.Hold(left, restoredBy)
	}
}

// restoreNames adds the answers for the names of a service to its DNS cache.
func restoreNames(r *memory.Record, ref *cacheRef, saved memory.Service) {
	wanted := make(map[string]bool)
	for _, host := range ref.hosts {
		wanted[strings.ToLower(host)] = true
	}
	for _, targets := range saved.Targets {
		for _, t := range targets.List {
			wanted[t.Host] = true
		}
	}
	var answers []resolver.Saved
	for _, answer := range r.Names[ref.cache.origin] {
		if wanted[answer.Host] {
			answers = append(answers, answer)
		}
	}
	if len(answers) > 0 {
		ref.cache.Restore(answers)
	}
}

// restoreCounts continues the counters of an earlier process, if the record has them.
func (s *service) restoreCounts(r *memory.Record) {
	if r.Counts == nil {
		return
	}
	if counts, ok := r.Counts.Services[s.recordKey()]; ok {
		collected.ledger.adopt(s, func() { s.AddCounts(counts) }, time.Now())
	}
}

// restoreProcessCounts continues the counters that belong to no service.
func restoreProcessCounts(r *memory.Record) {
	if r.Counts != nil && collected.ledger.addSeries(r.Counts.Series, time.Now()) {
		collected.lookups.OK.Add(r.Counts.Lookups.OK)
		collected.lookups.Stale.Add(r.Counts.Lookups.Stale)
		collected.lookups.Failed.Add(r.Counts.Lookups.Failed)
	}
}

// handedOver returns the state of all services, for the process that replaces this one.
func handedOver() []byte {
	list := runningServices()
	r := snapshot(list)
	r.Counts = countsOf(list)
	return r.Encode()
}

// takeHandedOver gives all services the state that the old process hands over.
func takeHandedOver(text []byte) {
	if len(text) == 0 {
		return
	}
	r, err := memory.Decode(text)
	if errors.Is(err, memory.ErrForeign) {
		r, err = decodeOperated(text)
	}
	if err != nil {
		processLog().Error("state of the old process unreadable", zap.Error(err))
		return
	}
	takeRecord(r)
}

// takeMemory gives all services the state in the memory that the first config has read.
func takeMemory() {
	turn.mu.Lock()
	defer turn.mu.Unlock()
	if app := turn.current; app != nil {
		app.logRecall()
		if app.recalled.record != nil {
			takeRecord(app.recalled.record)
		}
	}
}

// takeRecord gives all services the state in a record of another process.
func takeRecord(r *memory.Record) {
	// Not in services.Range, which holds a lock: the ledger reads services with its own
	// lock held.
	for _, s := range runningServices() {
		s.takeState(r)
	}
	restoreProcessCounts(r)
}

// decodeOperated decodes the state that processes before v0.2 hand over: what operators
// have done to services, by their keys in services.
func decodeOperated(text []byte) (*memory.Record, error) {
	var all map[string]struct {
		Drained   []string  `json:"drained"` // backends
		HeldUntil time.Time `json:"held_until"`
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	r := &memory.Record{SavedAt: time.Now(), Services: make(map[string]memory.Service)}
	for key, o := range all {
		saved := memory.Service{HeldUntil: o.HeldUntil}
		for _, backend := range o.Drained {
			saved.Queue.Backends = append(saved.Queue.Backends, upstream.SavedBackend{Backend: backend, Drained: true})
		}
		r.Services[(&service{key: key}).recordKey()] = saved
	}
	return r, nil
}
