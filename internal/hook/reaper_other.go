//go:build !linux

package hook

// reap does nothing: only on Linux a program such as this one can have the PID 1.
func reap(<-chan struct{}) {}

// adoptsOrphans returns false.
func adoptsOrphans() bool { return false }
