package listen

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A listener whose descriptor Go's poller rejects logs that and tries again, until
// its clients are served.
func TestListenerUnpolled(t *testing.T) {
	if !relaytest.InChild(t, "RELAY_DISABLE=") {
		return
	}
	relaytest.NoLeaks(t)
	s := NewSockets()
	relaytest.Check(t, openTCP(t, s, freeAddr(t, "127.0.0.1")).Close()) // opens what a first listener needs
	at := freeAddr(t, "127.0.0.1")

	// The listener gets the lowest free descriptor, and its duplicate the second.
	var free [2]*os.File
	for i := range free {
		var err error
		free[i], err = os.Open(os.DevNull)
		relaytest.Check(t, err)
	}
	rejected := int(free[1].Fd())
	for _, file := range free {
		relaytest.Check(t, file.Close())
	}
	relaytest.RejectPolling(t, rejected)
	opts, logs := observed()
	l, err := s.TCP(at, opts)
	relaytest.Check(t, err)
	defer l.Close()
	const failed, recovered = "accept failed, retrying", "accepting clients again"
	relaytest.Eventually(t, "the log line", func() bool { return logs.FilterMessage(failed).Len() > 0 })

	// Once a client has the rejected descriptor, the duplicate gets another one.
	for fd := -1; fd != rejected; {
		fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		relaytest.Check(t, err)
		defer syscall.Close(fd)
		relaytest.Check(t, syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
		_, err = syscall.Write(fd, []byte("hello"))
		relaytest.Check(t, err)
	}
	wantRead(t, accepted[net.Conn](t, l), "hello")
	if logs.FilterMessage(recovered).Len() != 1 {
		t.Errorf("no line about the recovery: %v", logs.All())
	}
}
