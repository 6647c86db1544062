package netio

import (
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// At urgent data, Linux reports an empty queue while the thread has a signal
// pending. The reader reads again, because nothing would report the rest.
func TestReaderAtUrgentData(t *testing.T) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends with the test
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = syscall.Kill(syscall.Getpid(), syscall.SIGURG) // as Go's scheduler sends it
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	stuck := 0
	for range 3000 {
		near, far := relaytest.TCPPair(t)
		raw, err := near.SyscallConn()
		relaytest.Check(t, err)
		relaytest.Check(t, raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) }))
		relaytest.Check(t, err)
		relaytest.Check(t, near.CloseWrite())
		r := NewReader(far)
		_ = far.SetReadDeadline(time.Now().Add(3 * time.Second))
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("after urgent data: %v", err)
		}
		r.Release()
		Reset(near)
		Reset(far)
	}
	if stuck > 1 { // a second signal may have come with the second read
		t.Errorf("%d readers did not see the end of the stream", stuck)
	}
}
