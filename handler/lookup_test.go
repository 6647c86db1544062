package handler

import (
	"net/netip"
	"slices"
	"testing"
)

func TestPreferredFirst(t *testing.T) {
	a, b, c := addrsOf("192.0.2.1")[0], addrsOf("2001:db8::1")[0], addrsOf("192.0.2.2")[0]
	given := []netip.Addr{a, b, c}
	for _, test := range []struct {
		first netip.Addr
		want  []netip.Addr
	}{
		{a, []netip.Addr{a, b, c}},
		{b, []netip.Addr{b, a, c}},
		{c, []netip.Addr{c, a, b}},
		{netip.Addr{}, []netip.Addr{a, b, c}},
		{addrsOf("192.0.2.9")[0], []netip.Addr{a, b, c}},
	} {
		if got := preferredFirst(given, test.first); !slices.Equal(got, test.want) {
			t.Errorf("with %v moved to the front: %v, want %v", test.first, got, test.want)
		}
	}
	if !slices.Equal(given, []netip.Addr{a, b, c}) {
		t.Error("the given slice was modified")
	}
}

func TestSameSet(t *testing.T) {
	a, b, c := addrsOf("192.0.2.1")[0], addrsOf("2001:db8::1")[0], addrsOf("192.0.2.2")[0]
	given := []netip.Addr{a, b, c}
	if !sameSet(given, []netip.Addr{c, a, b}) || sameSet(given, given[:2]) || sameSet(given[:2], given) || sameSet(given, nil) {
		t.Error("sameSet returns the wrong result")
	}
}
