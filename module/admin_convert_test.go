package module

import (
	"testing"

	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/upstream"
)

// The admin API passes the pool's states on by their text, so each needs a
// counterpart of the same text. The list is in the order of api.State.Worse.
func TestStatesOfTheAPI(t *testing.T) {
	states := []struct {
		pool upstream.State
		api  api.State
	}{
		{upstream.Up, api.StateUp},
		{upstream.Struck, api.StateStruck},
		{upstream.Down, api.StateDown},
		{upstream.Cooling, api.StateCooling},
		{upstream.Draining, api.StateDraining},
	}
	for i, s := range states {
		if string(s.pool) != string(s.api) {
			t.Errorf("the pool's %q is %q in the API", s.pool, s.api)
		}
		if i > 0 && (!s.api.Worse(states[i-1].api) || states[i-1].api.Worse(s.api)) {
			t.Errorf("%q must be worse than %q", s.api, states[i-1].api)
		}
		if !api.StateRemoved.Worse(s.api) {
			t.Errorf("%q must be worse than %q", api.StateRemoved, s.api)
		}
	}
}
