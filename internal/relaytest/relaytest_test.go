package relaytest

import (
	"os"
	"testing"
)

func TestInChild(t *testing.T) {
	if !InChild(t, "RELAY_TEST_WORD=hello") {
		return
	}
	if os.Getenv("RELAY_TEST_WORD") != "hello" {
		t.Error("the child lacks the variable")
	}
}

func TestLimitDescriptors(t *testing.T) {
	if !InChild(t) {
		return
	}
	restore := LimitDescriptors(t, 3)
	if file, err := os.Open(os.DevNull); err == nil {
		file.Close()
		t.Error("opened a file at the limit")
	}
	restore()
	file, err := os.Open(os.DevNull)
	Check(t, err)
	file.Close()
}

// fakeT records what a helper reports, in place of the real test.
type fakeT struct {
	testing.TB
	cleanups []func()
	failed   bool
}

func (f *fakeT) Helper()               {}
func (f *fakeT) Failed() bool          { return false }
func (f *fakeT) Cleanup(c func())      { f.cleanups = append(f.cleanups, c) }
func (f *fakeT) Errorf(string, ...any) { f.failed = true }

func TestNoLeaksWaitsForGoroutines(t *testing.T) {
	fake := &fakeT{TB: t}
	NoLeaks(fake)
	stop := make(chan struct{})
	go func() { <-stop }()
	close(stop)
	for _, cleanup := range fake.cleanups {
		cleanup()
	}
	if fake.failed {
		t.Error("a goroutine that ended counts as leaked")
	}
}
