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
	setInteger(&limited.Cur, n)
	Check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limited))
	restore = func() {
		t.Helper()
		Check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before))
	}
	t.Cleanup(restore)
	return restore
}

// setInteger sets a field whose type differs between systems.
func setInteger[N int64 | uint64](field *N, value int) { *field = N(value) }
