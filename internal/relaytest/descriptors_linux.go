package relaytest

import (
	"os"
	"strings"
	"testing"
)

// OpenDescriptors returns the number of open descriptors of this process, without
// pipes: package net keeps some in a pool until a garbage collection.
func OpenDescriptors(t testing.TB) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	Check(t, err)
	for _, file := range list {
		if to, _ := os.Readlink("/proc/self/fd/" + file.Name()); !strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}
