package asyncrelay

import "testing"

func TestSuggestKey(t *testing.T) {
	for key, want := range map[string]string{"cooldown": "backend_cooldown", "backendcooldown": "backend_cooldown", "protcol": "protocol", "weight": ""} {
		if got := suggestKey(key, serviceKeys); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}
