//go:build unix

package relaytest

import (
	"syscall"
	"testing"
)

// LimitDescriptors sets the soft limit on the number of open descriptors of
// this process to n, until restore is called or the test ends. With a limit
// below the number of descriptors that are open, no more can be opened. Use it
// in a child process (see [InChild]).
func LimitDescriptors(t testing.TB, n int) (restore func()) {
	t.Helper()
	var before syscall.Rlimit
	Check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	limited := before
	set(&limited.Cur, n)
	Check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limited))
	restore = func() {
		t.Helper()
		Check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before))
	}
	t.Cleanup(restore)
	return restore
}

// set assigns to a field of Rlimit, whose type depends on the system.
func set[T int64 | uint64](field *T, n int) { *field = T(n) }
