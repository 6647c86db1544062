package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// meter reads from the kernel the resources that the processes of one relay use.
// It holds their ids.
type meter []int

// cpu returns the CPU time of all threads so far, including ended ones, in user
// space and in the kernel. It is the sum of utime and stime in /proc/PID/stat, in
// nanoseconds instead of ticks of 10 ms.
func (m meter) cpu() (sum time.Duration, err error) {
	for _, pid := range m {
		var t unix.Timespec
		const schedClock = 2                         // CPUCLOCK_SCHED, of a process
		clock := int32(^uint32(pid)<<3 | schedClock) // clock_getcpuclockid(3)
		if err := unix.ClockGettime(clock, &t); err != nil {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// waitIdle waits until the processes together use next to no CPU time. It returns an
// error if they still do after the limit.
func (m meter) waitIdle(limit time.Duration) error {
	before, err := m.cpu()
	if err != nil {
		return err
	}
	var streak idleStreak
	for began, at := time.Now(), time.Now(); time.Since(began) < limit; {
		time.Sleep(100 * time.Millisecond)
		now, err := m.cpu()
		if err != nil {
			return err
		}
		took := time.Since(at)
		if streak.add(now-before, took) {
			return nil
		}
		before, at = now, at.Add(took)
	}
	return fmt.Errorf("not idle after %v", limit)
}

// idleStreak is the number of latest intervals in a row in which processes were idle.
type idleStreak int

// add records the CPU time that the processes used in an interval. It reports whether
// they were idle for long enough: in three intervals, each with less than 2 % of a CPU.
func (s *idleStreak) add(used, took time.Duration) bool {
	if used*50 >= took {
		*s = 0
		return false
	}
	*s++
	return *s >= 3
}

// resident returns the resident memory of the processes.
func (m meter) resident() (kib float64, err error) {
	for _, pid := range m {
		status, err := os.ReadFile(procFile(pid, "status"))
		if err != nil {
			return 0, err
		}
		one, err := residentKiB(string(status))
		if err != nil {
			return 0, err
		}
		kib += float64(one)
	}
	return kib, nil
}

func (m meter) descriptors() (n float64, err error) {
	for _, pid := range m {
		list, err := os.ReadDir(procFile(pid, "fd"))
		if err != nil {
			return 0, err
		}
		n += float64(len(list))
	}
	return n, nil
}

// held measures the memory and descriptors of idle connections, which open opens.
func (m meter) held(count int, open func() error) (values, error) {
	memory, err := m.resident()
	if err != nil {
		return nil, err
	}
	files, err := m.descriptors()
	if err != nil {
		return nil, err
	}
	if err := open(); err != nil {
		return nil, err
	}
	memoryThen, err := m.resident()
	if err != nil {
		return nil, err
	}
	filesThen, err := m.descriptors()
	if err != nil {
		return nil, err
	}
	return values{
		"memory": (memoryThen - memory) / float64(count),
		"files":  (filesThen - files) / float64(count),
	}, nil
}

// manyRelays is the least number of relays whose memory can be told from that of the
// rest of the process.
const manyRelays = 1000

// addMemory adds the memory of each of count relays to v. before is that of the
// process without them. It returns err.
func (m meter) addMemory(v values, before float64, count int, err error) error {
	if err != nil || count < manyRelays || len(m) == 0 {
		return err
	}
	now, err := m.resident()
	if err == nil {
		v["memory"] = (now - before) / float64(count)
	}
	return err
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// childrenOf returns the processes that a process has started.
func childrenOf(pid int) (children []int, err error) {
	list, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range list {
		other, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(procFile(other, "stat"))
		if err != nil {
			continue // the process has ended
		}
		if parent, err := parentOf(string(stat)); err == nil && parent == pid {
			children = append(children, other)
		}
	}
	return children, nil
}
