package main

import "testing"

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

func TestResidentKiB(t *testing.T) {
	got, err := residentKiB("Name:\tx\nVmHWM:\t    9 kB\nVmRSS:\t   12345 kB\nThreads:\t3\n")
	if err != nil || got != 12345 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := residentKiB("Name:\tkthreadd\n"); err == nil {
		t.Error("no error for a process without memory")
	}
}

func TestListens(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue
   0: 0100007F:2EE0 00000000:0000 0A 00000000:00000000
   1: 0100007F:2EE1 0100007F:1F90 01 00000000:00000000
`
	if !listens(table, 12000) {
		t.Error("a listening socket was not found")
	}
	if listens(table, 12001) {
		t.Error("a connection was taken for a listening socket")
	}
	if listens(table, 8080) {
		t.Error("a peer's port was taken for a local one")
	}
}
