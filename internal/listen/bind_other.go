//go:build !linux

package listen

import "syscall"

// sharePort does nothing: who shares a port with whom differs from system to
// system, and it is not needed to keep one socket for one address.
func sharePort(_, _ string, _ syscall.RawConn) error { return nil }

// heldByUs: this system is not asked. Changes between overlapping addresses
// need two reloads there.
func heldByUs(string, uint16) bool { return false }
