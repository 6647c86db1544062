package main

import "testing"

// A number of clients needs the least limit that leaves the relay enough descriptors, next
// to its reserves.
func TestFilesFor(t *testing.T) {
	enough := func(relays int, limit uint64) bool {
		forRelays := limit - 2*min(limit/16, 1024)
		return uint64(2*relays+500) <= forRelays-forRelays/16
	}
	for _, relays := range []int{1000, 7000, 8000, 10_000, 30_000} {
		if files := filesFor(relays); !enough(relays, files) || enough(relays, files-20) {
			t.Errorf("%d relays: %d descriptors are too few or too many", relays, files)
		}
	}
	if files := filesFor(8000); files > 20_000 {
		t.Errorf("8,000 relays need %d descriptors, want at most 20,000", files)
	}
}
