package relaytest

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// SegmentsSent returns how many segments a TCP socket has sent.
func SegmentsSent(t testing.TB, fd int) uint32 {
	t.Helper()
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	Check(t, err)
	return info.Segs_out
}

// QuickRound repeats round until it took less time than the kernel delays an
// acknowledgement. Only the results of the latest one count.
func QuickRound(t testing.TB, round func()) {
	t.Helper()
	Eventually(t, "a quick round", func() bool {
		began := time.Now()
		round()
		return time.Since(began) < 100*time.Millisecond
	})
}
