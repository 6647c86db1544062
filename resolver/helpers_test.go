package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

var errDown = errors.New("the test took DNS down")

// patience is what the tests give a lookup.
const patience = time.Second

// fakeDNS is a DNS that does what a test wants, and counts what it is asked.
type fakeDNS struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr // a name not in here gets an empty answer
	err   error                   // the answer to everything, if set
	takes time.Duration           // how long an answer takes
	hangs bool                    // answers come when ctx ends

	asked []query
	busy  int // queries now
	most  int // queries at one time
}

type query struct {
	host string
	at   time.Time
}

func (d *fakeDNS) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	d.asked = append(d.asked, query{host, time.Now()})
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
		return nil, err
	}
	return slices.Clone(d.addrs[host]), nil
}

// set changes what the DNS does.
func (d *fakeDNS) set(change func(d *fakeDNS)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *fakeDNS) queries() []query {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

// wantQueries fails the test unless n queries were asked since the DNS was made.
func (d *fakeDNS) wantQueries(t *testing.T, n int) {
	t.Helper()
	if got := len(d.queries()); got != n {
		t.Fatalf("%d queries, want %d", got, n)
	}
}

// diary is an Observer that writes down what it is told.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) Resolved(host string, addrs []netip.Addr) { d.write("resolved %s %v", host, addrs) }
func (d *diary) Failed(host string, err error)            { d.write("failed %s: %v", host, err) }

func (d *diary) Changed(host string, old, new []netip.Addr) {
	d.write("changed %s %v %v", host, old, new)
}

func (d *diary) Stale(host string, addrs []netip.Addr, age time.Duration, err error) {
	d.write("stale %s %v %v: %v", host, addrs, age.Round(time.Minute), err)
}

// want fails the test unless the diary has these lines, and forgets them. Their order is not
// looked at: an Observer may be called concurrently.
func (d *diary) want(t *testing.T, lines ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	slices.Sort(d.lines)
	slices.Sort(lines)
	if !slices.Equal(d.lines, lines) {
		t.Fatalf("observer was told %q, want %q", d.lines, lines)
	}
	d.lines = nil
}

// newCache makes a Cache with a TTL of an hour that asks dns. It is closed with the test.
func newCache(t testing.TB, dns *fakeDNS) (*Cache, *diary) {
	d := &diary{}
	c := New(Config{Lookup: dns.lookup, Observer: d})
	t.Cleanup(c.Close)
	return c, d
}

// ips parses addresses.
func ips(addrs ...string) []netip.Addr {
	var parsed []netip.Addr
	for _, addr := range addrs {
		parsed = append(parsed, netip.MustParseAddr(addr))
	}
	return parsed
}

// names maps one name to addresses.
func names(host string, addrs ...string) map[string][]netip.Addr {
	return map[string][]netip.Addr{host: ips(addrs...)}
}

// lookup fails the test unless the answer is addrs, stale or not. Any goroutine may call it.
func lookup(t *testing.T, c *Cache, host string, stale bool, addrs ...string) {
	t.Helper()
	answer, err := c.Lookup(t.Context(), host, patience)
	wantAnswer(t, answer, err, stale, addrs...)
}

func wantAnswer(t *testing.T, answer Answer, err error, stale bool, addrs ...string) {
	t.Helper()
	if err != nil || answer.Stale != stale || !slices.Equal(answer.Addrs, ips(addrs...)) {
		t.Errorf("answer %v, stale %v, error %v; want %v, stale %v", answer.Addrs, answer.Stale, err, addrs, stale)
	}
}

// elapsed fails the test unless d passed since.
func elapsed(t *testing.T, since time.Time, d time.Duration) {
	t.Helper()
	if got := time.Since(since); got != d {
		t.Errorf("took %v, want %v", got, d)
	}
}
