package listen

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// When descriptors run out, clients wait in the kernel's queue. They are served once
// descriptors are available again.
func TestDescriptorsExhausted(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	opts, logs := observed()
	l, err := s.TCP(at, opts)
	relaytest.Check(t, err)
	defer l.Close()
	dial(t, "tcp", at.String())
	accepted[net.Conn](t, l)

	// Open the clients' sockets before the descriptors run out.
	var clients []int
	for range 10 {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		relaytest.Check(t, err)
		defer syscall.Close(fd)
		clients = append(clients, fd)
	}
	const used = 3 // these descriptors are open already
	restore := relaytest.LimitDescriptors(t, used)
	for _, fd := range clients {
		relaytest.Check(t, syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
		_, err := syscall.Write(fd, []byte("hello"))
		relaytest.Check(t, err)
	}
	const failed, recovered = "accept failed, retrying", "accepting clients again"
	relaytest.Eventually(t, "the log line", func() bool { return logs.FilterMessage(failed).Len() > 0 })
	time.Sleep(200 * time.Millisecond) // several more attempts
	if logs.Len() != 1 {
		t.Errorf("%d lines before the recovery, want 1: %v", logs.Len(), logs.All())
	}
	restore()
	for range clients {
		wantRead(t, accepted[net.Conn](t, l), "hello")
	}
	if logs.Len() != 2 || logs.FilterMessage(recovered).Len() != 1 {
		t.Errorf("want one more line: %v", logs.All())
	}
	// Close does not hang while descriptors are exhausted.
	relaytest.LimitDescriptors(t, used)
	relaytest.Check(t, l.Close())
	wantNoSockets(t, s)
}
