package netio

import (
	"os"
	"slices"
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
func Disabled(what string) bool { return slices.Contains(disabled(), what) }

// FastPaths lists the words that [Disabled] is called with.
var FastPaths = []string{"engine", "splice", "batch", "gso"}

// UnknownDisabled returns the words of RELAY_DISABLE that switch nothing off.
func UnknownDisabled() []string {
	return slices.DeleteFunc(disabled(), func(word string) bool { return slices.Contains(FastPaths, word) })
}

// disabled returns the words of RELAY_DISABLE.
func disabled() (words []string) {
	for word := range strings.SplitSeq(os.Getenv("RELAY_DISABLE"), ",") {
		if word = strings.TrimSpace(word); word != "" {
			words = append(words, word)
		}
	}
	return words
}
