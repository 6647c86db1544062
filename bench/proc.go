package main

import (
	"fmt"
	"strconv"
	"strings"
)

// parentOf returns the parent's id from the text of /proc/PID/stat. The program
// name in it may contain blanks and parentheses.
func parentOf(stat string) (int, error) {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, fmt.Errorf("not a stat line: %q", stat)
	}
	fields := strings.Fields(stat[i+1:])
	if len(fields) < 2 {
		return 0, fmt.Errorf("short stat line: %q", stat)
	}
	return strconv.Atoi(fields[1])
}

// residentKiB returns the resident set size from the text of /proc/PID/status.
func residentKiB(status string) (int64, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		}
	}
	return 0, fmt.Errorf("no VmRSS in status")
}

// listens reports whether table, the text of /proc/net/tcp or /proc/net/udp, has
// a socket on this IPv4 port that is connected to no peer.
func listens(table string, port int) bool {
	suffix := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) > 3 && strings.HasSuffix(fields[1], suffix) && fields[2] == "00000000:0000" {
			return true
		}
	}
	return false
}
