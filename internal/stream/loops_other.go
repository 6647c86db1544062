//go:build !linux

package stream

// NewEngine returns nil: event loops exist on Linux only. Relays use goroutines.
func NewEngine() Engine { return nil }
