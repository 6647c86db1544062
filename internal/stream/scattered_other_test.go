//go:build !linux

package stream

// newScattered returns nil: event loops exist on Linux only.
func newScattered() Engine { return nil }
