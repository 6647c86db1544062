package main

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestMeterSeesThisProcess(t *testing.T) {
	m := meter{os.Getpid()}
	before, err := m.cpu()
	if err != nil {
		t.Fatal(err)
	}
	after := before
	for start := time.Now(); err == nil && after <= before && time.Since(start) < 30*time.Second; { // which takes CPU time
		after, err = m.cpu()
	}
	if err != nil || after <= before {
		t.Errorf("CPU time before %v, after %v, %v", before, after, err)
	}
	if kib, err := m.resident(); err != nil || kib < 100 {
		t.Errorf("%v KiB, %v", kib, err)
	}
	if n, err := m.descriptors(); err != nil || n < 3 {
		t.Errorf("%v descriptors, %v", n, err)
	}
}

func TestIdleStreak(t *testing.T) {
	const busy, idle, interval = 2 * time.Millisecond, 1999 * time.Microsecond, 100 * time.Millisecond
	var s idleStreak
	for i, used := range []time.Duration{idle, idle, busy, 0, idle, 0, idle} {
		if got, want := s.add(used, interval), i >= 5; got != want {
			t.Errorf("interval %d: idle for long enough is %v, want %v", i, got, want)
		}
	}
}

func TestWaitIdle(t *testing.T) {
	runtime.LockOSThread() // the kernel kills a child when the thread that started it ends
	defer runtime.UnlockOSThread()
	for _, c := range []struct {
		script string
		idle   bool
	}{{"sleep 60", true}, {"while :; do :; done", false}} {
		child, err := startChild(t.TempDir(), "sh", "-c", c.script)
		if err != nil {
			t.Fatal(err)
		}
		defer child.stop()
		limit := 30 * time.Second
		if !c.idle {
			limit = time.Second
		}
		if err := (meter{child.cmd.Process.Pid}).waitIdle(limit); (err == nil) != c.idle {
			t.Errorf("%s: %v", c.script, err)
		}
	}
}

// Process ids on Linux are below 1<<22.
func TestMeterOfNoProcess(t *testing.T) {
	if _, err := (meter{1 << 22}).cpu(); err == nil {
		t.Error("no error for a process that does not exist")
	}
}
