package netio

import (
	"os"
	"strings"
)

// Disabled reports whether the environment variable RELAY_DISABLE, a list of words
// separated by commas, contains this word. Each word switches a fast path off, to
// work around a fault of a kernel or a device, or to measure the difference:
//
//	engine  event loops; goroutines are used instead
//	splice  splice(2); bytes are copied instead
//	batch   recvmmsg(2) and sendmmsg(2); each datagram is a system call
//	gso     UDP_SEGMENT of udp(7); datagrams are sent one by one
func Disabled(what string) bool {
	for word := range strings.SplitSeq(os.Getenv("RELAY_DISABLE"), ",") {
		if strings.TrimSpace(word) == what {
			return true
		}
	}
	return false
}
