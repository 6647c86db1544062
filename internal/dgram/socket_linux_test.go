package dgram

import (
	"errors"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Send does not wait for space in the socket's buffer: sessions call it with
// their lock held.
func TestLoopSocketSendDoesNotBlock(t *testing.T) {
	// The portable way to a full buffer is a full queue at the other end.
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	defer syscall.Close(fds[0])
	defer syscall.Close(fds[1])
	s := &loopSocket{fd: fds[0]}
	done := make(chan error, 1)
	go func() {
		for {
			if err := send(s, make([]byte, 1000)); err != nil {
				done <- err
				return
			}
		}
	}()
	if err := relaytest.Receive(t, "the error of a full buffer", done); !DatagramRejected(err) || !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("%v", err)
	}
}
