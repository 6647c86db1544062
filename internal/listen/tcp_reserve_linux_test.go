package listen

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// While relays have all descriptors that are not reserved, clients wait, on one
// listener and on another, and the reserve stays free. They are served once there
// is room, and each of them has a descriptor that is not reserved.
func TestAcceptLeavesReserve(t *testing.T) {
	for _, engine := range []string{"loops", "goroutines"} {
		t.Run(engine, func(t *testing.T) {
			disable := ""
			if engine == "goroutines" {
				disable = "engine"
			}
			if !relaytest.InChild(t, "RELAY_DISABLE="+disable) {
				return
			}
			const limit, reserve, clients = 128, 16, 4
			relaytest.LimitDescriptors(t, limit) // first of all, because the reserve depends on it
			relaytest.NoLeaks(t)
			s := NewSockets()
			var freeable atomic.Int32
			var held []*os.File
			s.FreeDescriptor = func() bool {
				if freeable.Load() == 0 {
					return false
				}
				freeable.Add(-1)
				return held[freeable.Load()].Close() == nil
			}
			var listeners [2]*TCPListener
			var accepted [2]chan net.Conn
			for i := range listeners {
				l, err := s.TCP(freeAddr(t, "127.0.0.1"), quiet())
				relaytest.Check(t, err)
				defer l.Close()
				dial(t, "tcp", l.Addr().String()).Close() // opens what a first client needs
				conn, err := l.Accept()
				relaytest.Check(t, err)
				relaytest.Check(t, conn.Close())
				accepted[i] = make(chan net.Conn, 2*clients)
				listeners[i] = l
			}
			var sockets [2][]int // of clients
			for i := range sockets {
				for range clients {
					fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
					relaytest.Check(t, err)
					sockets[i] = append(sockets[i], fd)
				}
			}
			for netio.HasDescriptor() {
				file, err := os.Open(os.DevNull)
				relaytest.Check(t, err)
				held = append(held, file)
			}
			for i, l := range listeners {
				go func() { // ends when the listener is closed
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						accepted[i] <- conn
					}
				}()
				at := l.Addr().(*net.TCPAddr).AddrPort()
				for _, fd := range sockets[i] {
					relaytest.Check(t, syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
				}
			}
			relaytest.Eventually(t, "a client to wait", func() bool { return s.crowded.Load() > 0 })
			var others []*os.File
			for range reserve - len(listeners) { // each listener may hold one client in the reserve
				// The listeners look for descriptors, and take them for a moment.
				relaytest.Eventually(t, "a descriptor of the reserve", func() bool {
					file, err := os.Open(os.DevNull)
					if err == nil {
						others = append(others, file)
					}
					return err == nil
				})
			}
			for _, file := range others {
				relaytest.Check(t, file.Close())
			}
			if n := len(accepted[0]) + len(accepted[1]); n > 0 {
				t.Errorf("%d clients were accepted without a descriptor", n)
			}

			freeable.Store(int32(len(held)))
			for i := range listeners {
				for range clients {
					conn := relaytest.Receive(t, "a client", accepted[i])
					reserved := true
					switch conn := conn.(type) {
					case *net.TCPConn:
						reserved = netio.InReserve(conn)
					case *TCPConn: // Net would need another descriptor
						reserved = netio.Reserved(int(conn.fd))
					}
					if reserved {
						t.Errorf("a client %T has a reserved descriptor", conn)
					}
					defer conn.Close()
				}
				for _, fd := range sockets[i] {
					relaytest.Check(t, syscall.Close(fd))
				}
			}
			for _, file := range held[:freeable.Load()] {
				relaytest.Check(t, file.Close())
			}
		})
	}
}

// A listener whose client waits for a descriptor closes at once and resets it.
func TestCloseWhileClientWaits(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	relaytest.LimitDescriptors(t, 128) // first of all, because the reserve depends on it
	relaytest.NoLeaks(t)
	s := NewSockets()
	l := openTCP(t, s, freeAddr(t, "127.0.0.1"))
	dial(t, "tcp", l.Addr().String()).Close() // opens what a first client needs
	relaytest.Check(t, accepted[net.Conn](t, l).Close())
	client, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	relaytest.Check(t, err)
	defer syscall.Close(client)
	var held []*os.File
	for netio.HasDescriptor() {
		file, err := os.Open(os.DevNull)
		relaytest.Check(t, err)
		held = append(held, file)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	relaytest.Check(t, syscall.Connect(client, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
	relaytest.Eventually(t, "the client to wait", func() bool { return s.crowded.Load() > 0 })
	relaytest.Check(t, l.Close())
	if n, err := syscall.Read(client, make([]byte, 1)); err != syscall.ECONNRESET {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if got := s.crowded.Load(); got != 0 {
		t.Errorf("%d clients are said to wait", got)
	}
	for _, file := range held {
		relaytest.Check(t, file.Close())
	}
	wantNoSockets(t, s)
}
