//go:build unix

package netio

import (
	"math"

	"golang.org/x/sys/unix"
)

// descriptorLimit is RLIMIT_NOFILE; 0 where it is unknown or endless.
func descriptorLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || uint64(limit.Cur) > math.MaxInt32 {
		return 0
	}
	return int(limit.Cur)
}
