package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("DNS is down")

// patience is the patience of the lookups of the tests.
const patience = time.Second

// fakeDNS is a DNS whose answers a test controls. It records queries.
type fakeDNS struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr // a name not in here gets an empty answer
	ttl   time.Duration           // of all records
	part  bool                    // answers are partial
	err   error                   // the result of every query, if set
	takes time.Duration           // time until an answer
	hangs bool                    // queries fail when ctx ends

	queried []query
	busy    int // concurrent queries now
	most    int // maximum of busy
}

type query struct {
	host string
	at   time.Time
}

func (d *fakeDNS) lookup(ctx context.Context, host string) (Result, error) {
	d.mu.Lock()
	d.queried = append(d.queried, query{host, time.Now()})
	d.busy++
	d.most = max(d.most, d.busy)
	takes, hangs := d.takes, d.hangs
	d.mu.Unlock()

	if hangs {
		takes = 1000 * time.Hour
	}
	var err error
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		err = ctx.Err()
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy--
	if err == nil {
		err = d.err
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Addrs: slices.Clone(d.addrs[host]), TTL: d.ttl, Partial: d.part}, nil
}

// set changes the answers of the DNS.
func (d *fakeDNS) set(change func(d *fakeDNS)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *fakeDNS) queries() []query {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.queried)
}

// wantQueries fails the test unless the DNS got n queries in total.
func (d *fakeDNS) wantQueries(t *testing.T, n int) {
	t.Helper()
	if got := len(d.queries()); got != n {
		t.Fatalf("%d queries, want %d", got, n)
	}
}

// eventLog is an Observer that records its calls.
type eventLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *eventLog) write(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *eventLog) Resolved(host string, addrs []netip.Addr) { l.write("resolved %s %v", host, addrs) }
func (l *eventLog) Failed(host string, err error)            { l.write("failed %s: %v", host, err) }

func (l *eventLog) Ignored(host string, unusable []netip.Addr, surplus int) {
	l.write("ignored %s %v %d", host, unusable, surplus)
}

func (l *eventLog) Changed(host string, old, new []netip.Addr) {
	l.write("changed %s %v %v", host, old, new)
}

func (l *eventLog) Stale(host string, addrs []netip.Addr, age time.Duration, err error) {
	l.write("stale %s %v %v: %v", host, addrs, age.Round(time.Minute), err)
}

// want fails the test unless the log has these lines, and removes them. Their order is ignored,
// because an Observer may be called concurrently. It waits for the calls, which follow the answers
// that they are about, so the test must run in a bubble of synctest.
func (l *eventLog) want(t *testing.T, lines ...string) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.lines)
	slices.Sort(lines)
	if !slices.Equal(l.lines, lines) {
		t.Fatalf("observer calls: %q, want %q", l.lines, lines)
	}
	l.lines = nil
}

// newCache returns a Cache with a TTL of an hour that queries dns. It is closed at the end of the
// test.
func newCache(t testing.TB, dns *fakeDNS) (*Cache, *eventLog) {
	events := &eventLog{}
	c := New(Config{Lookup: dns.lookup, Observer: events})
	t.Cleanup(c.Close)
	return c, events
}

// newResolvedCache returns a Cache like newCache, with a fresh entry for a.example.
func newResolvedCache(t *testing.T) (*Cache, *fakeDNS, *eventLog) {
	dns := &fakeDNS{addrs: names("a.example", "192.0.2.1")}
	c, events := newCache(t, dns)
	lookup(t, c, "a.example", false, "192.0.2.1")
	return c, dns, events
}

// newFilledCache returns a Cache like newCache, with fresh entries for n hosts.
func newFilledCache(t *testing.T, n int) (c *Cache, dns *fakeDNS, hosts []string) {
	dns = &fakeDNS{addrs: map[string][]netip.Addr{}}
	c, _ = newCache(t, dns)
	for i := range n {
		host := fmt.Sprintf("n%d.example", i)
		dns.addrs[host] = ips("192.0.2.1")
		lookup(t, c, host, false, "192.0.2.1")
		hosts = append(hosts, host)
	}
	return c, dns, hosts
}

// ips parses addresses.
func ips(addrs ...string) []netip.Addr {
	var parsed []netip.Addr
	for _, addr := range addrs {
		parsed = append(parsed, netip.MustParseAddr(addr))
	}
	return parsed
}

// names returns the records of one name.
func names(host string, addrs ...string) map[string][]netip.Addr {
	return map[string][]netip.Addr{host: ips(addrs...)}
}

// lookup looks host up and fails the test unless the answer is addrs and as stale as expected. Any
// goroutine may call it.
func lookup(t *testing.T, c *Cache, host string, stale bool, addrs ...string) {
	t.Helper()
	answer, err := c.Lookup(t.Context(), host, patience)
	wantAnswer(t, answer, err, stale, addrs...)
}

// wantAnswer fails the test unless the answer is addrs and as stale as expected.
func wantAnswer(t *testing.T, answer Answer, err error, stale bool, addrs ...string) {
	t.Helper()
	if err != nil || answer.Stale != stale || !slices.Equal(answer.Addrs, ips(addrs...)) {
		t.Errorf("answer %v, stale %v, error %v; want %v, stale %v", answer.Addrs, answer.Stale, err, addrs, stale)
	}
}

// elapsed fails the test unless exactly d has passed since then.
func elapsed(t *testing.T, since time.Time, d time.Duration) {
	t.Helper()
	if got := time.Since(since); got != d {
		t.Errorf("took %v, want %v", got, d)
	}
}
