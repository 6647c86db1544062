package netio

import (
	"slices"
	"testing"
)

func TestDisabled(t *testing.T) {
	for list, want := range map[string]bool{"": false, "gso": true, "engine, gso": true, "gso,batch": true, "gsoo": false, "GSO": false} {
		t.Setenv("RELAY_DISABLE", list)
		if got := Disabled("gso"); got != want {
			t.Errorf("%q: %v", list, got)
		}
	}
}

func TestUnknownDisabled(t *testing.T) {
	for list, want := range map[string][]string{
		"": nil, "engine, splice,batch ,gso,": nil, "gsoo": {"gsoo"}, "GSO,engine, udp": {"GSO", "udp"}, "gso batch": {"gso batch"},
	} {
		t.Setenv("RELAY_DISABLE", list)
		if got := UnknownDisabled(); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
}
