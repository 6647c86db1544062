//go:build !linux

package netio

import (
	"errors"
	"net"
)

// Detach gives a descriptor of conn's socket that package net knows nothing of.
// Nobody on this system has a use for it.
func Detach(*net.TCPConn) (fd int, err error) { return -1, errors.ErrUnsupported }

// Duplicate gives another descriptor of conn's socket; nor this.
func Duplicate(*net.TCPConn) (fd int, err error) { return -1, errors.ErrUnsupported }

// ResetDescriptor closes what [Detach] gave, which is nothing.
func ResetDescriptor(int) {}
