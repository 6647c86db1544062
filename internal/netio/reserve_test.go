package netio

import (
	"math"
	"testing"
)

func TestReserves(t *testing.T) {
	for limit, want := range map[int][2]int{
		0:       {math.MaxInt, math.MaxInt},
		40:      {30, 35},
		64:      {48, 56},
		1024:    {896, 960},
		4000:    {3500, 3750},
		1 << 20: {1<<20 - 2048, 1<<20 - 1024},
	} {
		if udp, others := reserves(limit); udp != want[0] || others != want[1] {
			t.Errorf("limit %d: reserved from %d and %d, want %v", limit, udp, others, want)
		}
	}
}
