//go:build !linux

package handler

// NewEngine makes the [Engine] that suits the system best: here the one with a
// goroutine a socket.
func NewEngine() Engine { return goroutines{} }
