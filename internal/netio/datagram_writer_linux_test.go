package netio

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestDatagramWriterDoesNotBlock(t *testing.T) {
	// The portable way to a full buffer is a full queue at the other end.
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	defer syscall.Close(fds[1])
	conn := os.NewFile(uintptr(fds[0]), "socket")
	defer conn.Close()
	var w DatagramWriter
	done := make(chan error, 1)
	go func() {
		for {
			if err := w.WriteNonblock(conn, make([]byte, 1000)); err != nil {
				done <- err
				return
			}
		}
	}()
	if err := relaytest.Receive(t, "the error of a full buffer", done); Classify(err) != Exhausted || !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("%v", err)
	}
}
