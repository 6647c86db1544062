package listen

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// When the last listener on a socket of the service manager closes, the clients that
// come then wait for the next process. None is reset.
func TestCloseOfAnInheritedSocketResetsNobody(t *testing.T) {
	relaytest.NoLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer ln.Close() // the service manager has the socket, too
	file, err := ln.(*net.TCPListener).File()
	relaytest.Check(t, err)
	defer file.Close()
	inherited, err := InheritedSocket(file)
	relaytest.Check(t, err)
	s := NewSockets()
	s.Inherit(inherited)
	opts := quiet()
	var mu sync.Mutex
	taken := 0
	opts.TakeTCP = func(conn net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		taken++
		_ = conn.Close()
		return true
	}
	const rounds = 300
	dialled := 0
	for range rounds {
		l, err := s.TCP(inherited.At, opts)
		relaytest.Check(t, err)
		closed := make(chan struct{})
		go func() { defer close(closed); _ = l.Close() }()
		for range 10 {
			conn, err := net.Dial("tcp", inherited.At.String())
			relaytest.Check(t, err)
			_ = conn.(*net.TCPConn).SetLinger(0)
			defer conn.Close()
			dialled++
		}
		<-closed
	}
	// The clients that were not taken wait in the queue of the socket.
	mu.Lock()
	defer mu.Unlock()
	for waiting := range dialled - taken {
		_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(relaytest.Limit))
		conn, err := ln.Accept()
		if err != nil {
			t.Fatalf("%d clients: %d were taken, %d wait", dialled, taken, waiting)
		}
		conn.Close()
	}
}
