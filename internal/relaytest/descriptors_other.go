//go:build !unix

package relaytest

import "testing"

// LimitDescriptors skips the test: this system has no limit to set.
func LimitDescriptors(t testing.TB, _ int) (restore func()) {
	t.Helper()
	t.Skip("no descriptor limit on this system")
	return nil
}
