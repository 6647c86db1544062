package netio

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Goroutines count that run, that wait for a processor, and that are in a system call.
func TestProcessorsInUse(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	relaytest.NoLeaks(t)
	used := processorsInUse()
	if n, _ := used(); n < 1 {
		t.Errorf("%d in use, and this goroutine runs", n)
	}
	const each = 5
	var pipe [2]int
	relaytest.Check(t, syscall.Pipe(pipe[:]))
	var stop atomic.Bool
	var all sync.WaitGroup
	defer func() {
		stop.Store(true)
		syscall.Close(pipe[1]) // ends the reads
		all.Wait()
		syscall.Close(pipe[0])
	}()
	for range each {
		all.Go(func() {
			var buf [1]byte
			_, _ = syscall.Read(pipe[0], buf[:])
		})
	}
	relaytest.Eventually(t, "those in a system call to be counted", func() bool {
		for range 100 { // until none is on its way there
			if n, _ := used(); n <= each {
				return false
			}
			runtime.Gosched()
		}
		return true
	})
	for range each {
		all.Go(func() {
			for !stop.Load() {
			}
		})
	}
	relaytest.Eventually(t, "all of them to be counted", func() bool { n, _ := used(); return n > 2*each })
}
