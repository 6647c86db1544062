package handler

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

func TestJournalKeepsTheLatest(t *testing.T) {
	for _, added := range []int{0, 1, journalSize - 1, journalSize, journalSize + 1, 3*journalSize + 7} {
		var j Journal
		for i := range added {
			j.Add(Entry{Kind: KindReload, Cause: fmt.Sprint(i)})
		}
		entries := j.Entries()
		if len(entries) != min(added, journalSize) {
			t.Errorf("%d entries kept of %d", len(entries), added)
		}
		for i, e := range entries {
			if want := fmt.Sprint(added - len(entries) + i); e.Cause != want || e.Time.IsZero() {
				t.Fatalf("of %d entries, number %d is %+v, want %s", added, i, e, want)
			}
		}
	}
}

// Entries that are added later do not change the returned ones.
func TestJournalEntriesAreACopy(t *testing.T) {
	var j Journal
	for range 2 {
		j.Add(Entry{Cause: "old"})
	}
	entries := j.Entries()
	for range journalSize {
		j.Add(Entry{Cause: "new"})
	}
	if entries[0].Cause != "old" || entries[1].Cause != "old" {
		t.Errorf("%+v", entries)
	}
}

func TestJournalConcurrently(t *testing.T) {
	var j Journal
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				j.Add(Entry{Kind: KindReset})
				if n := len(j.Entries()); n == 0 || n > journalSize {
					t.Errorf("%d entries", n)
				}
			}
		})
	}
	all.Wait()
	inOrder := func(a, b Entry) int { return a.Time.Compare(b.Time) }
	if entries := j.Entries(); len(entries) != journalSize || !slices.IsSortedFunc(entries, inOrder) {
		t.Errorf("%d entries, or not the oldest first", len(entries))
	}
}

func TestJournalAddsWithoutAllocating(t *testing.T) {
	var j Journal
	e := Entry{Kind: KindStrike, Backend: "db1:5432"}
	j.Add(e)
	if n := testing.AllocsPerRun(2*journalSize, func() { j.Add(e) }); n != 0 {
		t.Errorf("%v allocations for an entry", n)
	}
}

// Strikes, demotions and recoveries are recorded, other results of attempts are
// not.
func TestJournalOfAttempts(t *testing.T) {
	pool := upstream.NewPool(backendAddresses(t, "db1:5432", "db2:5432"), 0, time.Now())
	walk := pool.Walk(upstream.TCP)
	attempt, _ := walk.Next(time.Now())
	refused := outcome{attempt: attempt, addr: netip.MustParseAddr("10.0.0.1"), err: errors.New("dial tcp 10.0.0.1:5432: connection refused")}
	unresolved := outcome{attempt: attempt, err: errors.New("no such host")}
	connected := outcome{attempt: attempt, addr: netip.MustParseAddr("10.0.0.1")}
	order := []string{"db2:5432", "db1:5432"}
	for _, test := range []struct {
		change upstream.Change
		o      outcome
		n      upstream.Network
		by     string
		want   string
	}{
		{upstream.Change{Strike: 1}, refused, upstream.TCP, "10.0.0.9:4711",
			"first strike: db1:5432 is retried at once (tcp, dial tcp 10.0.0.1:5432: connection refused), seen by client 10.0.0.9:4711"},
		{upstream.Change{Strike: 2, Demoted: true, Order: order}, refused, upstream.TCP, "10.0.0.9:4711",
			"second strike: db1:5432 moved to the end (tcp, dial tcp 10.0.0.1:5432: connection refused), seen by client 10.0.0.9:4711; order db2:5432, db1:5432"},
		{upstream.Change{Strike: 2, Demoted: true}, unresolved, upstream.UDP, "health check",
			"second strike: db1:5432 is down, order unchanged (udp, no such host), seen by the health check"},
		{upstream.Change{Recovered: true, DownFor: 90*time.Second + 300}, connected, upstream.TCP, "health check",
			"recovery: db1:5432 works again, order unchanged (tcp, 10.0.0.1:5432, down for 1m30s), seen by the health check"},
		{upstream.Change{}, refused, upstream.TCP, "10.0.0.9:4711", ""},
		{upstream.Change{}, connected, upstream.TCP, "10.0.0.9:4711", ""},
	} {
		var j Journal
		before := time.Now()
		j.addAttemptLocked(test.change, test.o, test.n, clientName(test.by))
		if test.want == "" {
			if entries := j.Entries(); len(entries) != 0 {
				t.Errorf("entries %v, want none", entries)
			}
			continue
		}
		e := j.Entries()[0]
		if e.Time.Before(before) || e.Time.After(time.Now()) {
			t.Errorf("entry of %v", e.Time)
		}
		if want := e.Time.UTC().Format(time.RFC3339) + " " + test.want; e.String() != want {
			t.Errorf("entry\n\t%s\nwant\n\t%s", e, want)
		}
	}
}

func TestEntryStrings(t *testing.T) {
	at := time.Date(2026, 11, 22, 15, 3, 11, 999, time.FixedZone("", 3600))
	const admin = "127.0.0.1:2019"
	for want, e := range map[string]Entry{
		"reset: configured order, no strikes, none down, requested by 127.0.0.1:2019; order a:1, b:1":            {Kind: KindReset, By: admin, Order: []string{"a:1", "b:1"}},
		"drain: a:1 gets no new clients, requested by 127.0.0.1:2019":                                            {Kind: KindDrain, Backend: "a:1", By: admin},
		"resume: a:1 gets new clients again, requested by 127.0.0.1:2019":                                        {Kind: KindResume, Backend: "a:1", By: admin},
		"failback: a:1 is healthy and back in its configured position, seen by the health check; order a:1, b:1": {Kind: KindFailback, Backend: "a:1", By: "health check", Order: []string{"a:1", "b:1"}},
		"backends: targets of srv/_a.test changed (added a:1; removed b:2); order a:1":                           {Kind: KindBackends, Backend: "srv/_a.test", Cause: "added a:1; removed b:2", Order: []string{"a:1"}},
		"dns: addresses of a:1 changed (10.0.0.2 instead of 10.0.0.1)":                                           {Kind: KindDNS, Backend: "a:1", Cause: "10.0.0.2 instead of 10.0.0.1"},
		"reload: settings changed (added c:1); order a:1, c:1":                                                   {Kind: KindReload, Cause: "added c:1", Order: []string{"a:1", "c:1"}},
		"else: a:1": {Kind: "else", Backend: "a:1"},
	} {
		e.Time = at
		if got := e.String(); got != "2026-11-22T14:03:11Z "+want {
			t.Errorf("%s", got)
		}
	}
}

// clientName is a client in a test.
type clientName string

func (n clientName) String() string { return string(n) }
