package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parentOf returns the parent's id from the text of /proc/PID/stat.
func parentOf(stat string) (int, error) {
	fields, err := statFields(stat)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(fields[1])
}

// ended reports whether /proc/PID/stat is that of a process that has ended and not
// been waited for.
func ended(stat string) bool {
	fields, err := statFields(stat)
	return err == nil && fields[0] == "Z"
}

// statFields returns the fields of /proc/PID/stat from the state on. They come after
// the program's name, which may contain blanks and parentheses.
func statFields(stat string) ([]string, error) {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return nil, fmt.Errorf("not a stat line: %q", stat)
	}
	fields := strings.Fields(stat[i+1:])
	if len(fields) < 2 {
		return nil, fmt.Errorf("short stat line: %q", stat)
	}
	return fields, nil
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

// listening returns how many sockets on this IPv4 port are connected to no peer, by
// table, the text of /proc/net/tcp or /proc/net/udp.
func listening(table string, port int) (count int) {
	suffix := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) > 3 && strings.HasSuffix(fields[1], suffix) && fields[2] == "00000000:0000" {
			count++
		}
	}
	return count
}

// unused returns the CPU time that the machine's CPUs did not use since it
// started, from the text of /proc/stat, and the number of CPUs: time of idling, of
// waiting for disks, and of the host's other machines.
func unused(stat string) (sum time.Duration, cpus int, err error) {
	const idle, ioWait, steal, tick = 4, 5, 8, 10 * time.Millisecond
	for line := range strings.Lines(stat) {
		fields := strings.Fields(line)
		switch {
		case len(fields) <= steal || !strings.HasPrefix(fields[0], "cpu"):
		case fields[0] != "cpu":
			cpus++
		default:
			for _, i := range []int{idle, ioWait, steal} {
				n, err := strconv.ParseInt(fields[i], 10, 64)
				if err != nil {
					return 0, 0, err
				}
				sum += time.Duration(n) * tick
			}
		}
	}
	if cpus == 0 {
		return 0, 0, errors.New("no CPUs in /proc/stat")
	}
	return sum, cpus, nil
}
