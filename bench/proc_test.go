package main

import (
	"testing"
	"time"
)

func TestParentOf(t *testing.T) {
	got, err := parentOf("4711 (a) b (c) S 17 4711 4711 0 -1 4194560\n")
	if err != nil || got != 17 {
		t.Errorf("got %d, %v", got, err)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S"} {
		if _, err := parentOf(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestEnded(t *testing.T) {
	if !ended("4711 (Z) Z 17 4711") || ended("4711 (Z Z) S 17 4711") || ended("") {
		t.Error("the state of a process is misread")
	}
}

func TestResidentKiB(t *testing.T) {
	got, err := residentKiB("Name:\tx\nVmHWM:\t    9 kB\nVmRSS:\t   12345 kB\nThreads:\t3\n")
	if err != nil || got != 12345 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := residentKiB("Name:\tkthreadd\n"); err == nil {
		t.Error("no error for a process without memory")
	}
}

func TestListening(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue
   0: 0100007F:2EE0 00000000:0000 0A 00000000:00000000
   1: 0100007F:2EE1 0100007F:1F90 01 00000000:00000000
   2: 0200007F:2EE0 00000000:0000 0A 00000000:00000000
`
	for port, want := range map[int]int{
		12000: 2,
		12001: 0, // a connection
		8080:  0, // a peer's port
	} {
		if got := listening(table, port); got != want {
			t.Errorf("%d sockets listen on port %d, want %d", got, port, want)
		}
	}
}

func TestUnused(t *testing.T) {
	const stat = `cpu  38479 1 11131 67448 266 2 205 38 3 4
cpu0 19000 0 5000 33000 100 0 100 20 0 0
cpu1 19479 1 6131 34448 166 2 105 18 3 4
intr 1 2 3 4 5 6 7 8 9
`
	got, cpus, err := unused(stat)
	if want := (67448 + 266 + 38) * 10 * time.Millisecond; err != nil || got != want || cpus != 2 {
		t.Errorf("got %v of %d CPUs, %v; want %v of 2", got, cpus, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu 1 2 3 x 5 6 7 8 9\ncpu0 1 2 3 4 5 6 7 8 9\n"} {
		if _, _, err := unused(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}
