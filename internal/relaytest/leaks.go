package relaytest

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"time"
)

// NoLeaks fails the test if a goroutine that started during the test still runs
// at its end. Call it first, so that it checks after all other cleanups. Tests
// that call it must not be parallel. A test that has failed is not checked: it
// may have returned before it stopped what it started.
func NoLeaks(t testing.TB) {
	t.Helper()
	before := GoroutineStacks()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		for deadline := time.Now().Add(Limit); ; time.Sleep(time.Millisecond) {
			var leaked []string
			for id, stack := range GoroutineStacks() {
				if _, old := before[id]; !old {
					leaked = append(leaked, stack)
				}
			}
			if len(leaked) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d leaked goroutines:\n%s", len(leaked), strings.Join(leaked, "\n\n"))
				return
			}
		}
	})
}

// GoroutineStacks returns the stacks of all goroutines by their ids.
func GoroutineStacks() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := make(map[string]string)
	for _, stack := range bytes.Split(buf, []byte("\n\n")) {
		id, _, _ := strings.Cut(string(stack), " [")
		stacks[id] = string(stack)
	}
	return stacks
}
