package netio

import (
	"errors"
	"syscall"
)

// Class is the origin of a network error.
type Class uint8

const (
	// Remote: the peer or the path to it failed. Also the class of errors that
	// are not known.
	Remote Class = iota
	// Local: this machine cannot send to that address at all (no route, address
	// family not supported, forbidden). Another address may work.
	Local
	// Exhausted: this machine has no free descriptor, memory or port. No other
	// address works either, but the same one may work later.
	Exhausted
)

// Classify returns the class of the system's error number inside err. It is Remote
// for an error of [Received].
func Classify(err error) Class {
	var errno syscall.Errno
	var received *receivedError
	if !errors.As(err, &errno) || errors.As(err, &received) {
		return Remote
	}
	return classifyErrno(errno)
}
