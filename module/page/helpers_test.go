package page

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/async-relay/caddy-relay/module/api"
)

// fakeRelays are relays whose state a test sets.
type fakeRelays struct {
	mu       sync.Mutex // guards the fields below
	services []api.Service
	journals map[string][]api.JournalEntry // by the name of the service
	names    []api.DNSEntry
	reads    int      // calls of Services
	posts    []string // requests to the endpoint
}

func (f *fakeRelays) change(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeRelays) countReads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

func (f *fakeRelays) Endpoints() []Endpoint {
	return []Endpoint{{Method: http.MethodPost, Pattern: "/relay/services/{service}/reset", Handle: func(r *http.Request) (any, error) {
		f.change(func() { f.posts = append(f.posts, OperatorOf(r.Context())+" resets "+r.PathValue("service")) })
		if r.PathValue("service") == "unknown" {
			return nil, statusErrorf(http.StatusNotFound, "unknown service")
		}
		return map[string]string{}, nil
	}}}
}

func (f *fakeRelays) Services() (list []Service) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	for _, s := range f.services {
		entries := f.journals[s.Name]
		list = append(list, Service{
			Key: "secret " + s.Name, Entries: uint64(len(entries)), Service: s,
			Journal: func(n uint64) []api.JournalEntry { return entries[n:] },
		})
	}
	return list
}

func (f *fakeRelays) DNS() []api.DNSEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.names
}

// received is a decoded event.
type received struct {
	name string
	update
	Steps map[int][3]uint64 `json:"steps"`
}

// next returns the next event of a watcher. It fails the test if the watcher has lost
// its stream.
func next(t *testing.T, w *watcher) (e received) {
	t.Helper()
	frame, open := <-w.frames
	if !open {
		t.Fatal("the watcher has lost its stream")
	}
	name, data, _ := strings.Cut(strings.TrimPrefix(string(frame), "event: "), "\ndata: ")
	e.name = name
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		t.Fatal(err)
	}
	return e
}
