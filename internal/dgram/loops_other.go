//go:build !linux

package dgram

// NewEngine returns the fastest [Engine] of this system.
func NewEngine() Engine { return Goroutines{} }
