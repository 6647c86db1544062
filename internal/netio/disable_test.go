package netio

import "testing"

func TestDisabled(t *testing.T) {
	for list, want := range map[string]bool{"": false, "gso": true, "engine, gso": true, "gso,batch": true, "gsoo": false, "GSO": false} {
		t.Setenv("RELAY_DISABLE", list)
		if got := Disabled("gso"); got != want {
			t.Errorf("%q: %v", list, got)
		}
	}
}
