//go:build unix

package module_test

import (
	"math"
	"syscall"
	"testing"
)

// descriptorLimit returns the number of descriptors that this process may open.
func descriptorLimit(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(uint64(limit.Max), math.MaxInt32)) // the Go runtime has raised the soft limit already
}
