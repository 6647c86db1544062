package handler

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// countedService returns a service with these backends that has counted something of
// each kind on the first two.
func countedService(t *testing.T, backends ...string) *Service {
	t.Helper()
	s := restartedService(t, backends...)
	a, b := s.Pool.Backend(backends[0]), s.Pool.Backend(backends[1])
	now := time.Now()
	for n := range networks {
		tally := s.tallies.get(a, n)
		tally.enter()
		tally.leave()
		tally.bytesUp.Add(10 + uint64(n))
		tally.bytesDown.Add(20)
		tally.datagramsUp.Add(3)
		tally.datagramsDown.Add(4)
		tally.connects.observe(3*time.Millisecond, now)
		walk := s.Pool.Probe(b, n, upstream.Works)
		attempt, _ := walk.Next(now)
		walk.FailedAt(attempt, now, errors.New("no answer"), netip.MustParseAddrPort("192.0.2.1:80"))
	}
	for i, kind := range []flood{refusedTCP, refusedUDP, evicted, queueFull, backlogsFull, dropped, icmpIgnored, limitTCP, limitUDP, perIPLimitTCP, perIPLimitUDP, deniedTCP, deniedUDP, exhausted} {
		s.floods[kind].Add(uint64(i + 1))
	}
	s.hedges.Add(7)
	s.rescues.Add(8)
	return s
}

func restartedService(t *testing.T, backends ...string) *Service {
	t.Helper()
	s := NewService("s", upstream.NewPool(backendAddresses(t, backends...), 0, time.Now()), nil, NewSessionBudget(netio.SessionLimit(), nil))
	t.Cleanup(s.Close)
	return s
}

// saveCounts returns the counts as another process reads them.
func saveCounts(t *testing.T, s *Service) (saved SavedCounts) {
	t.Helper()
	text, err := json.Marshal(s.SaveCounts(time.Now()))
	relaytest.Check(t, err)
	relaytest.Check(t, json.Unmarshal(text, &saved))
	return saved
}

// All that Stats returns of the past continues after a restart.
func TestCountsContinue(t *testing.T) {
	backends := []string{"192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"}
	old := countedService(t, backends...)
	saved := saveCounts(t, old)
	s := restartedService(t, backends...)
	s.AddCounts(saved)
	if again := saveCounts(t, s); !reflect.DeepEqual(again, saved) {
		t.Errorf("restored\n%+v, want\n%+v", again, saved)
	}
	want, got := old.Stats(time.Now()), s.Stats(time.Now())
	for _, stats := range []*Stats{&want, &got} {
		for i := range stats.Backends {
			b := &stats.Backends[i]
			b.Backend = nil
			for n := range b.Use {
				b.Use[n].Connects.P50, b.Use[n].Connects.P99 = 0, 0 // of the last five minutes
				b.Networks[n].State, b.Networks[n].Strikes, b.Networks[n].ByCheck = upstream.Up, 0, false
				b.Networks[n].LastFailure.At = b.Networks[n].LastFailure.At.Round(0).UTC()
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("restored\n%+v, want\n%+v", got, want)
	}
	if s.Stats(time.Now()).Refused[upstream.TCP][RefusedByBackends] != 1 {
		t.Error("the refused clients are not counted") // else the test compares zeros
	}
}

// The counts of backends that the new process does not have are those of departed ones,
// as after a reload.
func TestCountsOfDepartedBackends(t *testing.T) {
	old := countedService(t, "192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80")
	s := restartedService(t, "192.0.2.3:80", "192.0.2.4:80")
	s.AddCounts(saveCounts(t, old))
	old.Pool.Update(backendAddresses(t, "192.0.2.3:80", "192.0.2.4:80"), 0)
	want, got := old.Stats(time.Now()).Departed, s.Stats(time.Now()).Departed
	if got != want || got[upstream.UDP].BytesUp != 11 || got[upstream.TCP].FailedChecks != 1 {
		t.Errorf("departed %+v, want %+v", got, want)
	}
	if again := saveCounts(t, s); !reflect.DeepEqual(again, saveCounts(t, old)) {
		t.Errorf("saved again: %+v", again)
	}
}

// Counts of another version are left out where they do not fit.
func TestAddForeignCounts(t *testing.T) {
	s := restartedService(t, "192.0.2.1:80")
	s.AddCounts(SavedCounts{
		Backends: []SavedBackend{{Backend: "192.0.2.1:80", TCP: SavedUse{Connections: 1, Connects: []uint64{1, 2}, ConnectSum: 5}}},
		Events:   map[string]uint64{"unknown": 1},
	})
	use := s.Stats(time.Now()).Backends[0].Use[upstream.TCP]
	if use.Connections != 1 || use.Connects != (Connects{}) {
		t.Errorf("%+v", use)
	}
}
