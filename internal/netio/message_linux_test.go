package netio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// messagePair returns both ends of a MessagePair as connections.
func messagePair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	near, file, err := MessagePair()
	relaytest.Check(t, err)
	defer file.Close()
	far, err = MessageConn(file)
	relaytest.Check(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// Messages keep their boundaries, and the files of a message arrive with it.
func TestMessages(t *testing.T) {
	relaytest.NoLeaks(t)
	near, far := messagePair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	relaytest.Check(t, err)
	var file *os.File
	relaytest.Check(t, raw.Control(func(fd uintptr) { file, err = DuplicateFile(fd) }))
	relaytest.Check(t, err)
	defer file.Close()
	big := bytes.Repeat([]byte("x"), 70_000)
	relaytest.Check(t, SendMessage(near, []byte("one")))
	relaytest.Check(t, SendMessage(near, []byte("two"), file, file))
	relaytest.Check(t, SendMessage(near, big))
	buf := make([]byte, 128<<10)
	for i, want := range []string{"one", "two", string(big)} {
		n, files, err := ReceiveMessage(far, buf)
		relaytest.Check(t, err)
		if string(buf[:n]) != want || len(files) != i%2*2 {
			t.Errorf("message %d has %d bytes and %d files", i, n, len(files))
		}
		for _, file := range files {
			same, err := net.FileListener(file)
			relaytest.Check(t, err)
			if same.Addr().String() != ln.Addr().String() {
				t.Errorf("a socket at %s, want %s", same.Addr(), ln.Addr())
			}
			same.Close()
			file.Close()
		}
	}
	near.Close()
	if _, _, err := ReceiveMessage(far, buf); !errors.Is(err, io.EOF) {
		t.Errorf("%v after the other end was closed", err)
	}
}

// A message that is too long for the buffer is an error, and its files are closed.
func TestMessageTruncated(t *testing.T) {
	relaytest.NoLeaks(t)
	near, far := messagePair(t)
	file, err := os.Open(os.DevNull)
	relaytest.Check(t, err)
	defer file.Close()
	open := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		relaytest.Check(t, err)
		return len(names)
	}
	before := open()
	relaytest.Check(t, SendMessage(near, []byte("longer than the buffer"), file))
	if _, _, err := ReceiveMessage(far, make([]byte, 5)); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("error %v", err)
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}
