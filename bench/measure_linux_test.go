package main

import (
	"os"
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

// Process ids on Linux are below 1<<22.
func TestMeterOfNoProcess(t *testing.T) {
	if _, err := (meter{1 << 22}).cpu(); err == nil {
		t.Error("no error for a process that does not exist")
	}
}
