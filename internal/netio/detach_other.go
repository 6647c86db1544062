//go:build !linux

package netio

import (
	"errors"
	"net"
)

// Detach is not supported: descriptors are used on Linux only.
func Detach(*net.TCPConn) (fd int, err error) { return -1, errors.ErrUnsupported }

// Duplicate is not supported.
func Duplicate(*net.TCPConn) (fd int, err error) { return -1, errors.ErrUnsupported }

// ResetDescriptor does nothing: there are no descriptors from [Detach].
func ResetDescriptor(int) {}
