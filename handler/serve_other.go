//go:build !linux

package handler

import "context"

// serveOnLoop: this system has no event loops.
func (t *tcpRelay) serveOnLoop(context.Context, Client) bool { return false }

// NewLoops returns nil: this system has no event loops.
func NewLoops() any { return nil }
