package page

import (
	"slices"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/module/api"
)

// queue returns a service that listens on TCP, with a backend in each state.
func queue(states ...api.State) *api.Service {
	s := &api.Service{Name: "orders", Networks: []string{"tcp"}}
	for i, state := range states {
		s.Backends = append(s.Backends, api.Backend{
			Address: string(rune('a' + i)), Position: i + 1, Configured: i + 1, State: state,
			Networks: map[string]api.Network{"tcp": {State: state}, "udp": {State: api.StateUp}},
		})
	}
	return s
}

func TestJudge(t *testing.T) {
	held := queue(api.StateUp)
	held.HeldTill, held.Held = time.Now().Add(time.Minute), 3
	waiting := queue(api.StateDown)
	waiting.Held = 1
	drilled := queue(api.StateUp, api.StateUp)
	drilled.Backends[1].Drill = "slow"
	both := queue(api.StateDown, api.StateUp)
	both.Networks = []string{"tcp", "udp"}
	gone := queue(api.StateUp)
	gone.Removed = true
	left := queue(api.StateUp, api.StateRemoved)
	left.Backends[1].Position = 0
	for name, tt := range map[string]struct {
		service  *api.Service
		refused  uint64
		level    level
		problems []string
		notices  []string
	}{
		"all up":             {queue(api.StateUp, api.StateUp), 0, levelOK, nil, nil},
		"one strike":         {queue(api.StateStruck, api.StateUp), 0, levelNotice, nil, []string{"a has a strike on TCP"}},
		"one down":           {queue(api.StateUp, api.StateDown), 0, levelWarn, []string{"b is down"}, nil},
		"down on one of two": {both, 0, levelWarn, []string{"a is down on TCP"}, nil},
		"two of three down":  {queue(api.StateUp, api.StateDown, api.StateCooling), 0, levelWarn, []string{"2 of 3 backends are down"}, nil},
		"none works":         {queue(api.StateDown, api.StateCooling), 0, levelBad, []string{"no backend works"}, nil},
		"down and drained":   {queue(api.StateDown, api.StateDraining), 0, levelBad, []string{"no backend works"}, []string{"b is drained"}},
		"drained":            {queue(api.StateUp, api.StateDraining), 0, levelNotice, nil, []string{"b is drained"}},
		"refused":            {queue(api.StateUp), 1, levelWarn, []string{"1 client refused in the last minute"}, nil},
		"hold":               {held, 0, levelNotice, nil, []string{"new clients are held, 3 wait"}},
		"waiting":            {waiting, 0, levelBad, []string{"no backend works", "1 client waiting for a backend"}, nil},
		"drill":              {drilled, 0, levelNotice, nil, []string{"drill of b (slow)"}},
		"removed service":    {gone, 0, levelNotice, nil, []string{"removed from the config, its last clients are ending"}},
		"removed backend":    {left, 0, levelOK, nil, nil},
	} {
		j := judge(tt.service, tt.refused)
		if j.level != tt.level || !slices.Equal(j.problems, tt.problems) || !slices.Equal(j.notices, tt.notices) {
			t.Errorf("%s: got %s %q %q, want %s %q %q", name, j.level, j.problems, j.notices, tt.level, tt.problems, tt.notices)
		}
	}
}
