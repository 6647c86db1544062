package relaytest

import (
	"testing"
	"time"
)

// Limit bounds every wait of a test. A test that reaches it has failed, so it
// is long enough for a busy machine.
const Limit = 30 * time.Second

// Check fails the test at once if err is not nil.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually polls a condition until it holds, at most for [Limit]. what names
// the condition in the failure message.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Limit); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// Receive takes one value from a channel, or the zero value once it is closed,
// and waits at most for [Limit].
func Receive[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	timeout := time.NewTimer(Limit)
	defer timeout.Stop()
	select {
	case v := <-ch:
		return v
	case <-timeout.C:
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}
