package page

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// hubs holds the hub of each Relays across reloads, so that the history is kept.
var hubs = caddy.NewUsagePool()

// Pace of the events.
const (
	publishEvery = 400 * time.Millisecond // at most
	publishShare = 20                     // a publication may take a twentieth of one CPU
	quietFor     = 5 * time.Second        // after that a watcher gets an event in any case, to know that it is connected
	journalKept  = 200                    // entries that a new watcher gets
	maxWatchers  = 200
	frameQueue   = 16 // events that a slow watcher may be behind
)

var errTooManyWatchers = errors.New("too many open pages")

// hub watches the services for all pages of the process.
//
// Its one goroutine reads all services every ten seconds, for the history, because
// the page shows the last ten minutes also to the first watcher. That is one reading
// of counters, as for a scrape of the metrics, and 2 KiB of memory for a service. While
// there are watchers it reads them up to
// 2.5 times a second, encodes what has changed once, and hands that to all watchers.
type hub struct {
	relays Relays
	stop   context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
	joined chan *watcher // watchers that wait for the first event

	mu       sync.Mutex        // guards the fields below
	watchers map[*watcher]bool // true: had its first event; false: is in joined

	// The fields below belong to the goroutine.

	lastID   int               // that a service got
	services map[string]*known // by key
	names    []byte            // the DNS caches as published last
	journal  []entryView       // the latest entries, the oldest first
	sentAt   time.Time         // of the last event
}

// known is what the hub knows about a service.
type known struct {
	id      int
	history *history
	entries uint64 // of the journal, that were published
	view    []byte // as published last; nil while there are no watchers
}

// watcher is one open page.
type watcher struct {
	frames chan []byte // encoded events; closed if the watcher is too slow
}

// loadHub finds or creates the hub of relays. The caller must release it.
func loadHub(relays Relays) (*hub, error) {
	value, _, err := hubs.LoadOrNew(relays, func() (caddy.Destructor, error) {
		h := newHub(relays)
		ctx, cancel := context.WithCancel(context.Background())
		h.stop = cancel
		go h.run(ctx) // ends in Destruct
		return h, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*hub), nil
}

func newHub(relays Relays) *hub {
	return &hub{
		relays: relays, done: make(chan struct{}), joined: make(chan *watcher, maxWatchers),
		watchers: make(map[*watcher]bool), services: make(map[string]*known),
	}
}

// release gives back what loadHub returned.
func (h *hub) release() { _, _ = hubs.Delete(h.relays) }

// Destruct implements caddy.Destructor. It ends the goroutine.
func (h *hub) Destruct() error {
	h.stop()
	<-h.done
	return nil
}

// watch adds a watcher. Its first event has the whole state.
func (h *hub) watch() (*watcher, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) >= maxWatchers {
		return nil, errTooManyWatchers
	}
	w := &watcher{frames: make(chan []byte, frameQueue)}
	h.watchers[w] = false
	h.joined <- w // has room for all watchers
	return w, nil
}

// leave removes a watcher.
func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

// watched reports whether there are watchers.
func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers) > 0
}

// send hands an event to the watchers that had their first one. A watcher whose
// queue is full loses its stream; its browser connects again and gets the whole
// state.
func (h *hub) send(frame []byte, now time.Time) {
	h.sentAt = now
	h.mu.Lock()
	defer h.mu.Unlock()
	for w, welcomed := range h.watchers {
		if welcomed {
			h.sendLocked(w, frame)
		}
	}
}

func (h *hub) sendLocked(w *watcher, frame []byte) {
	select {
	case w.frames <- frame:
	default:
		close(w.frames)
		delete(h.watchers, w)
	}
}

// run samples the services, and publishes them while there are watchers.
func (h *hub) run(ctx context.Context) {
	defer close(h.done)
	sampling := time.NewTicker(sampleEvery)
	defer sampling.Stop()
	publishing := time.NewTimer(0)
	publishing.Stop()
	defer publishing.Stop()
	h.sample(time.Now())
	for {
		select {
		case <-ctx.Done():
			return
		case <-sampling.C:
			h.sample(time.Now())
		case w := <-h.joined:
			h.welcome(w, time.Now())
			publishing.Reset(publishEvery)
		case <-publishing.C:
			if !h.watched() {
				h.forget()
				continue
			}
			began := time.Now()
			h.publish(began)
			publishing.Reset(max(publishEvery, publishShare*time.Since(began)))
		}
	}
}

// sample ends a step of the history of all services.
func (h *hub) sample(now time.Time) {
	seen := make(map[string]bool)
	moved := make(map[int][3]uint64)
	for _, s := range h.relays.Services() {
		seen[s.Key] = true
		k := h.know(&s, now)
		k.history.step(countsOf(&s.Service, now))
		latest := k.history.steps[(k.history.next+samples-1)%samples]
		if figures := [3]uint64{latest.connections, latest.bytes, latest.failures}; figures != ([3]uint64{}) {
			moved[k.id] = figures
		}
	}
	for key := range h.services {
		if !seen[key] {
			delete(h.services, key)
		}
	}
	if h.watched() {
		h.send(encode("sample", map[string]any{"now": now.UnixMilli(), "steps": moved}), now)
	}
}

// know returns what is known about a service, and makes it known.
func (h *hub) know(s *Service, now time.Time) *known {
	k := h.services[s.Key]
	if k == nil {
		h.lastID++
		k = &known{id: h.lastID, history: newHistory(countsOf(&s.Service, now))}
		h.services[s.Key] = k
	}
	return k
}

// forget drops what only watchers need.
func (h *hub) forget() {
	for _, k := range h.services {
		k.view, k.entries = nil, 0
	}
	h.names, h.journal = nil, nil
}

// update is the event that has what changed. The event "state" has everything in
// the same fields, and the history.
type update struct {
	Now      int64                `json:"now"`
	Services []json.RawMessage    `json:"services,omitempty"`
	Order    []int                `json:"order,omitempty"` // all ids, if the set of services changed
	Journal  []entryView          `json:"journal,omitempty"`
	Names    json.RawMessage      `json:"names,omitempty"` // all names, if one changed
	History  map[int]*historyView `json:"history,omitempty"`
	Sampled  int64                `json:"sampled,omitempty"` // end of the latest step of the history
	Step     int64                `json:"step,omitempty"`    // length of a step, in milliseconds
}

// publish reads all services and sends what changed.
func (h *hub) publish(now time.Time) {
	u := h.read(now)
	if u.Services == nil && u.Order == nil && u.Journal == nil && u.Names == nil && now.Sub(h.sentAt) < quietFor {
		return
	}
	h.send(encode("update", u), now)
}

// welcome sends the whole state to a new watcher, and what changed to all others.
func (h *hub) welcome(w *watcher, now time.Time) {
	h.publish(now)
	state := update{Now: now.UnixMilli(), Journal: h.journal, Names: h.names, History: make(map[int]*historyView), Step: sampleEvery.Milliseconds(), Order: []int{}}
	for _, k := range slices.SortedFunc(maps.Values(h.services), func(a, b *known) int { return cmp.Compare(a.id, b.id) }) {
		if k.view == nil {
			continue // gone since the last sample
		}
		state.Order = append(state.Order, k.id)
		state.Services = append(state.Services, k.view)
		if view := k.history.view(); view != nil {
			state.History[k.id] = view
		}
		state.Sampled = k.history.last.at.UnixMilli()
	}
	frame := encode("state", state)
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, stays := h.watchers[w]; stays {
		h.watchers[w] = true
		h.sendLocked(w, frame)
	}
}

// read reads all services and returns what changed since it was called last.
func (h *hub) read(now time.Time) update {
	u := update{Now: now.UnixMilli()}
	list := h.relays.Services()
	names := make(map[string]int)
	for i := range list {
		names[list[i].Name]++
	}
	seen := make(map[string]bool, len(list))
	var entries []entryView
	changed := false // the set of services
	for i := range list {
		s := &list[i]
		seen[s.Key] = true
		k := h.know(s, now)
		reading := countsOf(&s.Service, now)
		view := newServiceView(s, reading, k.history)
		k.history.read(reading)
		view.ID, view.Shared = k.id, names[s.Name] > 1
		text := marshal(view)
		changed = changed || k.view == nil
		if !bytes.Equal(text, k.view) {
			k.view = text
			u.Services = append(u.Services, text)
		}
		if s.Entries > k.entries {
			for _, e := range s.Journal(k.entries) {
				entries = append(entries, newEntryView(e, k.id))
			}
			k.entries = s.Entries
		}
	}
	for key, k := range h.services {
		if !seen[key] && k.view != nil {
			k.view, changed = nil, true
		}
	}
	if changed {
		u.Order = []int{}
		for i := range list {
			u.Order = append(u.Order, h.services[list[i].Key].id)
		}
	}
	u.Journal = h.addEntries(entries)
	u.Names = h.readNames(now)
	return u
}

// addEntries adds new entries to the journal of all services, and returns them in
// the order of their times.
func (h *hub) addEntries(entries []entryView) []entryView {
	slices.SortStableFunc(entries, func(a, b entryView) int { return cmp.Compare(a.At, b.At) })
	entries = entries[max(0, len(entries)-journalKept):]
	h.journal = append(h.journal, entries...)
	h.journal = slices.Clone(h.journal[max(0, len(h.journal)-journalKept):])
	return entries
}

// readNames returns the DNS caches if they have changed.
func (h *hub) readNames(now time.Time) json.RawMessage {
	names := []nameView{}
	for _, e := range h.relays.DNS() {
		names = append(names, newNameView(e, now))
	}
	text := marshal(names)
	if bytes.Equal(text, h.names) {
		return nil
	}
	h.names = text
	return text
}

// marshal encodes a value of this package, which cannot fail.
func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// encode returns a server-sent event. JSON has no line breaks, so it is one line.
func encode(event string, v any) []byte {
	return slices.Concat([]byte("event: "+event+"\ndata: "), marshal(v), []byte("\n\n"))
}
