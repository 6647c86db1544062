//go:build !linux

package handler

import "testing"

func loopPort(t testing.TB, _ Socket) uint16 {
	t.Error("there are no loops")
	return 0
}
