package netio

import (
	"errors"
	"syscall"
)

// Class says whose fault a network error is.
type Class uint8

const (
	// Theirs: the other side's, or of the way to it. Also what is not known.
	Theirs Class = iota
	// Ours: this machine cannot reach that address at all (no route, no such
	// address family, forbidden); another address may do.
	Ours
	// Exhausted: this machine has run out of descriptors, memory or ports; no
	// other address helps, time may.
	Exhausted
)

// Classify decides, from the system's error number inside err.
func Classify(err error) Class {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return Theirs
	}
	return classifyErrno(errno)
}
