package module_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

type apiName struct {
	Host, Source, Error  string
	Addresses, Resolvers []string
	Age                  float64 `json:"age_seconds"`
	Left                 float64 `json:"ttl_left_seconds"`
	TTL                  float64 `json:"ttl_seconds"`
}

// After a flush, the next client gets the changed address. Until then the old one
// stays in the cache as stale.
func TestAdminFlushesDNS(t *testing.T) {
	port := freePort(t)
	backendAt(t, "127.0.0.2", port)
	backendAt(t, "127.0.0.3", port)
	names := startNameServer(t, "127.0.0.2")
	at, web := freeAddr(t), unique("web")
	host := web + ".test"
	s := start(t, block("relay+tcp/"+at, fmt.Sprintf("%s:%d {\n name %s\n resolvers %s\n dns_ttl 30m\n }", host, port, web, names.addr)))
	list := func() []apiName { // without the names of other tests
		t.Helper()
		var all []apiName
		s.must("GET", "dns", &all)
		return slices.DeleteFunc(all, func(n apiName) bool { return n.Host != host })
	}
	if got := list(); len(got) != 0 {
		t.Errorf("before the first lookup: %v", got)
	}
	if got := hello(t, at); got != "127.0.0.2" {
		t.Fatalf("got %q", got)
	}
	got := list()
	if len(got) != 1 {
		t.Fatalf("got %v", got)
	}
	if n := got[0]; n.Source != "fresh" || !slices.Equal(n.Addresses, []string{"127.0.0.2"}) || n.TTL != 1800 ||
		n.Left <= 1700 || n.Left > 1800 || n.Age < 0 || n.Age > 100 || n.Error != "" || !slices.Equal(n.Resolvers, []string{names.addr}) {
		t.Errorf("got %+v", n)
	}
	if b := s.service(web).Backends[0]; !slices.Equal(b.Addresses, []string{"127.0.0.2"}) {
		t.Errorf("addresses of the backend: %v", b.Addresses)
	}

	names.set("127.0.0.3")
	if got := hello(t, at); got != "127.0.0.2" {
		t.Errorf("before the flush: got %q", got)
	}
	var flushed struct{ Flushed, Known int }
	s.must("POST", "dns/flush?host=other.test", &flushed)
	if flushed.Flushed != 0 || flushed.Known != 0 || list()[0].Source != "fresh" {
		t.Errorf("flushed another name: %+v", flushed)
	}
	s.must("POST", "dns/flush?host="+strings.ToUpper(host), &flushed)
	if n := list()[0]; flushed.Flushed != 1 || flushed.Known != 1 || n.Source != "stale" || n.Left != 0 || len(n.Addresses) != 1 {
		t.Errorf("flushed %+v: %+v", flushed, n)
	}
	if got := hello(t, at); got != "127.0.0.3" {
		t.Errorf("after the flush: got %q", got)
	}
	s.must("POST", "dns/flush", &flushed)
	if flushed.Flushed < 1 || list()[0].Source != "stale" {
		t.Errorf("flushed all: %+v", flushed)
	}
	changes := s.lines("changed through the admin API")
	if len(changes) != 3 || changes[1]["action"] != "flush" || changes[1]["host"] != strings.ToUpper(host) || changes[1]["names"] != 1.0 || !isLoopback(fmt.Sprint(changes[1]["remote"])) {
		t.Errorf("logged %v", changes)
	}
}

// A change of a name's addresses is recorded in the journals of the services that
// use the cache, and not of services that use another cache.
func TestAdminExplainsDNS(t *testing.T) {
	port := freePort(t)
	backendAt(t, "127.0.0.2", port)
	backendAt(t, "127.0.0.3", port)
	moves, stays := startNameServer(t, "127.0.0.2"), startNameServer(t, "127.0.0.2")
	host := unique("moves") + ".test"
	moved, other := freeAddr(t), freeAddr(t)
	serving := func(at, name string, names *nameServer) string {
		return block("relay+tcp/"+at, fmt.Sprintf("%s:%d {\n name %s\n resolvers %s\n }", strings.ToUpper(host), port, name, names.addr))
	}
	s := start(t, serving(moved, "moved", moves)+serving(other, "other", stays))
	hello(t, moved)
	hello(t, other)
	moves.set("127.0.0.3")
	s.must("POST", "dns/flush?host="+host, new(struct{}))
	if one, two := hello(t, moved), hello(t, other); one != "127.0.0.3" || two != "127.0.0.2" {
		t.Fatalf("got %q and %q", one, two)
	}
	relaytest.Eventually(t, "the change in the journal", func() bool { return len(s.explain("moved").Journal) > 1 })
	if e := s.explain("moved").Journal[0]; e.Kind != "flush" || !isLoopback(e.By) {
		t.Errorf("got %+v", e)
	}
	if e := s.explain("moved").Journal[1]; e.Kind != "dns" || !strings.Contains(e.Sentence, "changed ([127.0.0.3], before [127.0.0.2])") {
		t.Errorf("got %+v", e)
	}
	if got := kinds(s.explain("other")); len(got) != 1 || got[0] != "flush" {
		t.Errorf("the other service's journal: %v", got)
	}
}
