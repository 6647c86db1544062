//go:build !linux

package dgram

import "testing"

func loopPort(t testing.TB, _ Socket) uint16 {
	t.Error("this system has no event loops")
	return 0
}
