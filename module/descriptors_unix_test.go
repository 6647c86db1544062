//go:build unix

package module_test

import (
	"math"
	"syscall"
	"testing"
)

// descriptorLimit raises the limit as far as it goes and says how far that is.
func descriptorLimit(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(uint64(limit.Max), math.MaxInt32)) // the Go runtime has raised the soft limit already
}
