//go:build !linux

package listen

import (
	"errors"
	"net/netip"
	"syscall"
)

// sharePort does nothing, see [Sockets.share].
func sharePort(_, _ string, _ syscall.RawConn) error { return nil }

// setShared does nothing, see [Sockets.share].
func setShared(boundSocket, bool) {}

// share returns an error, because port sharing differs between systems and is used
// on Linux only. On this system, a change between overlapping addresses needs two
// reloads.
func (s *Sockets) share(string, netip.AddrPort) error {
	return errors.New("stop the program that holds the port, or choose another one; if it is an address of the running config, remove it in one reload and add this one in the next")
}

// tables is not used, see [Sockets.share].
type tables map[string]struct{}

func (tables) bound(string, uint16) {}
func (tables) forget()              {}

// makeExclusive does nothing, see [Sockets.share].
func makeExclusive([]boundSocket) (shareable []netip.AddrPort) { return nil }
