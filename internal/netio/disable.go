package netio

import (
	"os"
	"strings"
)

// Disabled says whether the environment variable RELAY_DISABLE, a list of words
// with commas between them, has this one. It takes the fast ways of a system
// away one by one, to get around something that a kernel or a device does
// badly, or to measure what they are worth:
//
//	engine  event loops; goroutines carry everything
//	splice  splice(2); bytes are copied
//	batch   recvmmsg(2) and sendmmsg(2); a call for each datagram
//	gso     UDP_SEGMENT of udp(7); datagrams leave one by one
func Disabled(what string) bool {
	for word := range strings.SplitSeq(os.Getenv("RELAY_DISABLE"), ",") {
		if strings.TrimSpace(word) == what {
			return true
		}
	}
	return false
}
