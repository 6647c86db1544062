package module

import (
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// newIdle returns a service that is not in services.
func newIdle(name string, backends ...string) *service {
	var addresses []upstream.Address
	for _, b := range backends {
		addresses = append(addresses, upstream.Address{Text: b, Host: b, Port: 1})
	}
	s := new(service)
	s.Service = handler.NewService(name, upstream.NewPool(addresses, 0, time.Now()), nil, handler.NewSessionBudget(1, nil))
	return s
}

// fail records a number of failures of the first backend.
func (s *service) fail(times int) {
	for range times {
		walk := s.Pool.Walk(upstream.TCP)
		a, _ := walk.Next(time.Now())
		walk.Failed(a, time.Now(), errTest)
	}
}

type testError struct{}

func (testError) Error() string { return "test error" }

var errTest testError

func TestLedgerAddsUp(t *testing.T) {
	for name, of := range map[string]readingOf{"all": all, "only above zero": onlyAboveZero} {
		t.Run(name, func(t *testing.T) { ledgerAddsUp(t, of) })
	}
}

func ledgerAddsUp(t *testing.T, of readingOf) {
	l := newLedger()
	failures := newSeries(failuresTotal, "s", "tcp", "a", "client")
	expect := func(want uint64) {
		t.Helper()
		if got := l.totals[failures].figures; !slices.Equal(got, figures{want}) {
			t.Errorf("the total is %v, want %d", got, want)
		}
	}
	first := newIdle("s", "a")
	first.fail(3)
	l.recordLocked(first, time.Now(), of)
	expect(3)
	l.recordLocked(first, time.Now(), of)
	expect(3)

	twin := newIdle("s", "a") // another service of the same name
	twin.fail(2)
	l.recordLocked(twin, time.Now(), of)
	expect(5)
	first.fail(1)
	l.close(first, time.Now())
	expect(6)
	if len(l.last) != 1 {
		t.Errorf("%d services in the ledger, want only the twin", len(l.last))
	}

	// The backend is removed and returns. It has failed more often than before.
	twin.Pool.Update(newIdle("", "b").addresses(), 0)
	l.recordLocked(twin, time.Now(), of)
	twin.Pool.Update(newIdle("", "a").addresses(), 0)
	twin.fail(4)
	l.recordLocked(twin, time.Now(), of)
	expect(10)

	// Again, without a reading in between. It has failed less often than before.
	twin.Pool.Update(newIdle("", "b").addresses(), 0)
	twin.Pool.Update(newIdle("", "a").addresses(), 0)
	twin.fail(1)
	l.recordLocked(twin, time.Now(), of)
	expect(11)
}

func (s *service) addresses() (list []upstream.Address) {
	for _, b := range s.Pool.Snapshot(time.Now()) {
		list = append(list, b.Backend.Address)
	}
	return list
}

func TestLedgerForgetsOldTotals(t *testing.T) {
	l, now := newLedger(), time.Now()
	s := newIdle("s", "a")
	s.fail(1)
	l.close(s, now)
	l.forgetLocked(now.Add(keepTotals))
	if len(l.totals) == 0 {
		t.Error("the totals were deleted too early")
	}
	l.forgetLocked(now.Add(keepTotals + 1))
	if len(l.totals) != 0 {
		t.Errorf("%d series were not deleted", len(l.totals))
	}
}

// A service is exported while the current config has it or it has relays. Its
// counts stay in the ledger when its last user releases it.
func TestExportedServices(t *testing.T) {
	s := newIdle("TestExportedServices", "a")
	failures := newSeries(failuresTotal, s.Name, "tcp", "a", "client")
	if _, _, err := services.LoadOrNew(s.Name, func() (caddy.Destructor, error) { return s, nil }); err != nil {
		t.Fatal(err)
	}
	collected.ledger.mu.Lock()
	before := collected.ledger.totals[failures].count() // of an earlier run of this test
	collected.ledger.mu.Unlock()
	if counters, _ := collected.ledger.totalsAndGauges(time.Now()); counters[failures] != nil {
		t.Error("exported a service that no config has")
	}
	s.current.Store(new(settings))
	if counters, _ := collected.ledger.totalsAndGauges(time.Now()); counters[failures] == nil {
		t.Error("did not export a service of the current config")
	}
	s.current.Store(nil)
	s.fail(2)
	if deleted, _ := services.Delete(s.Name); !deleted {
		t.Fatal("the service is still in use")
	}
	collected.ledger.mu.Lock()
	defer collected.ledger.mu.Unlock()
	if got := collected.ledger.totals[failures].count() - before; got != 2 {
		t.Errorf("%d failures were added, want the last 2", got)
	}
	if collected.ledger.last[s] != nil {
		t.Error("the ledger still has the released service")
	}
}

func (t *total) count() uint64 {
	if t == nil {
		return 0
	}
	return t.figures[0]
}

func TestMergedGauges(t *testing.T) {
	for _, test := range []struct {
		of         metric
		one, two   float64
		wantEither float64
	}{
		{connectionsActive, 2, 3, 5},
		{backendUp, 1, 0, 0},
		{backendUp, 1, 1, 1},
		{backendPosition, 1, 2, 2},
	} {
		for _, order := range [][2]float64{{test.one, test.two}, {test.two, test.one}} {
			gauges := make(map[series]float64)
			mergeGauge(gauges, series{metric: test.of}, order[0])
			mergeGauge(gauges, series{metric: test.of}, order[1])
			if got := gauges[series{metric: test.of}]; got != test.wantEither {
				t.Errorf("%s of %v is %v, want %v", metrics[test.of].name, order, got, test.wantEither)
			}
		}
	}
}

// The gauge backend_up is separate for each network, and a drained backend is not
// down.
func TestBackendUp(t *testing.T) {
	for state, want := range map[upstream.State]float64{
		upstream.Up: 1, upstream.Struck: 1, upstream.Draining: 1, upstream.Down: 0, upstream.Cooling: 0,
	} {
		r := reading{of: all, counters: make(map[series]figures), gauges: make(map[series]float64)}
		status := upstream.Status{Position: 2}
		status.Networks[upstream.TCP].State = state
		r.addStatus(&status, "s", "a", true)
		if got := r.gauges[newSeries(backendUp, "s", "tcp", "a")]; got != want {
			t.Errorf("%s: %v, want %v", state, got, want)
		}
		if got := r.gauges[newSeries(backendUp, "s", "udp", "a")]; got != 1 {
			t.Errorf("%s on the other network: %v", state, got)
		}
		if got := r.gauges[newSeries(backendPosition, "s", "a")]; got != 3 {
			t.Errorf("position %v, want 3", got)
		}
	}
}

func TestLabelsAreUTF8(t *testing.T) {
	s := newIdle("a\xffb", "c\xfe")
	for key := range s.readMetrics(time.Now(), all).counters {
		for _, value := range key.values() {
			if !utf8.ValidString(value) {
				t.Errorf("%s has the label %q", metrics[key.metric].name, value)
			}
		}
	}
	if got := labelValue("a\xffb"); got != "a\uFFFDb" {
		t.Errorf("got %q", got)
	}
}
