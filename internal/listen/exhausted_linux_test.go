package listen

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Out of descriptors: clients wait in the kernel's queue, and are served once
// there are some. It is a process of its own.
func TestOutOfDescriptors(t *testing.T) {
	const child = "RELAY_TEST_OUT_OF_DESCRIPTORS"
	if os.Getenv(child) == "" {
		self, err := os.Executable()
		check(t, err)
		cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	opts, logs := observed()
	l, err := s.TCP(at, opts)
	check(t, err)
	defer l.Close()
	dial(t, "tcp", at.String())
	accepted[net.Conn](t, l)

	// Their sockets are made now, and connect when there are no descriptors.
	var clients []int
	for range 10 {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		check(t, err)
		defer syscall.Close(fd)
		clients = append(clients, fd)
	}
	var before syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	none := before
	none.Cur = 3 // all of them are taken
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
	for _, fd := range clients {
		check(t, syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
		_, err := syscall.Write(fd, []byte("hello"))
		check(t, err)
	}
	const failed, again = "cannot accept clients, trying on", "accepting clients again"
	eventually(t, "the line", func() bool { return logs.FilterMessage(failed).Len() > 0 })
	time.Sleep(200 * time.Millisecond) // some more tries
	if logs.Len() != 1 {
		t.Errorf("%d lines while it lasts, want 1: %v", logs.Len(), logs.All())
	}
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before))
	for range clients {
		wantRead(t, accepted[net.Conn](t, l), "hello")
	}
	if logs.Len() != 2 || logs.FilterMessage(again).Len() != 1 {
		t.Errorf("want one line more: %v", logs.All())
	}
	// A listener that ends while there are none is not held up.
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	check(t, l.Close())
	wantGone(t, s)
}
