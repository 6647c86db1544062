//go:build unix

package netio

import (
	"math"

	"golang.org/x/sys/unix"
)

// descriptorLimit returns RLIMIT_NOFILE, or 0 if it is unknown or unlimited.
func descriptorLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || uint64(limit.Cur) > math.MaxInt32 {
		return 0
	}
	return int(limit.Cur)
}
