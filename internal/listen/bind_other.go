//go:build !linux

package listen

import "syscall"

// sharePort does nothing. Port sharing differs between systems, and one socket
// per address works without it.
func sharePort(_, _ string, _ syscall.RawConn) error { return nil }

// heldByUs returns false, because the holders of a port are looked up on Linux
// only. On this system, a change between overlapping addresses needs two reloads.
func heldByUs(string, uint16) bool { return false }
