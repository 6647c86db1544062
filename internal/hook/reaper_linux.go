package hook

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// A process with the PID 1, as in a container without an init, becomes the parent of all
// orphans: of what commands leave running in the background. Only their parent can
// remove them from the kernel's table when they have ended.

// orphanAge is how long a child must be seen as ended before it is taken for an orphan.
const orphanAge = time.Second

// reap removes ended orphans of commands until stop is closed.
func reap(stop <-chan struct{}) {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGCHLD)
	defer signal.Stop(ends)
	ended := make(map[int]time.Time) // when each was first seen as ended
	for {
		var again <-chan time.Time
		if len(ended) > 0 {
			again = time.After(orphanAge)
		}
		select {
		case <-ends:
		case <-again:
		case <-stop:
			return
		}
		ended = reapOnce(ended)
	}
}

// reapOnce removes the orphans that were seen as ended long enough ago, and returns the
// others.
func reapOnce(before map[int]time.Time) (ended map[int]time.Time) {
	ended = make(map[int]time.Time)
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return ended // no /proc
	}
	self, err := proc.Self()
	if err != nil {
		return ended
	}
	own, err := self.Stat()
	if err != nil {
		return ended
	}
	processes, _ := proc.AllProcs()
	for _, process := range processes {
		stat, err := process.Stat()
		if err != nil || stat.PPID != own.PID || stat.State != "Z" || !isOrphan(stat, own) {
			continue
		}
		first, seen := before[stat.PID]
		switch {
		case !seen:
			ended[stat.PID] = time.Now()
		case time.Since(first) < orphanAge:
			ended[stat.PID] = first
		default:
			_, _ = syscall.Wait4(stat.PID, nil, syscall.WNOHANG, nil)
		}
	}
	return ended
}

// isOrphan reports whether a child of this process was started by a command and not by
// this process. Commands lead a process group in the session of this process. Children
// of other packages are in the group of this process. A job of an interactive shell
// looks like a command, and stays.
func isOrphan(child, own procfs.ProcStat) bool {
	command := child.PGRP == child.PID && child.Session == own.Session
	return !command && child.PGRP != own.PGRP
}

// adoptsOrphans reports whether orphans become children of this process.
func adoptsOrphans() bool { return os.Getpid() == 1 }
