//go:build !linux

package listen

// watchAll does nothing: there are no event loops.
func (s *Sockets) watchAll() bool { return false }
