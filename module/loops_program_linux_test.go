package module_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// forwarder is a program that forwards TCP and UDP to an address, each UDP client
// from a socket of its own, without a limit.
type forwarder struct {
	addr, to string
	clients  atomic.Int64 // so far, TCP and UDP
}

func startForwarder(t *testing.T, to string) *forwarder {
	t.Helper()
	f := &forwarder{addr: freeAddr(t), to: to}
	ln, err := net.Listen("tcp", f.addr)
	relaytest.Check(t, err)
	pc, err := net.ListenPacket("udp", f.addr)
	relaytest.Check(t, err)
	t.Cleanup(func() { ln.Close(); pc.Close() })
	go func() { // ends with the listener
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			f.clients.Add(1)
			go f.forwardTCP(client) // ends with the client
		}
	}()
	go f.forwardUDP(pc) // ends with pc
	return f
}

func (f *forwarder) forwardTCP(client net.Conn) {
	defer client.Close()
	backend, err := net.Dial("tcp", f.to)
	if err != nil {
		return
	}
	defer backend.Close()
	go func() { // ends with the client or the backend
		defer client.Close()
		defer backend.Close()
		_, _ = io.Copy(backend, client)
	}()
	_, _ = io.Copy(client, backend)
}

func (f *forwarder) forwardUDP(pc net.PacketConn) {
	backends := make(map[string]net.Conn)
	defer func() {
		for _, backend := range backends {
			backend.Close()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, client, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		backend := backends[client.String()]
		if backend == nil {
			if backend, err = net.Dial("udp", f.to); err != nil {
				continue
			}
			backends[client.String()] = backend
			f.clients.Add(1)
		}
		_, _ = backend.Write(buf[:n])
	}
}

// startLoopOverProgram starts a Caddy with a limit of descriptors. One of its services has a
// forwarder as its backend that leads back to it, on TCP and UDP. The other works.
func startLoopOverProgram(t *testing.T, options string, files int) (p *caddyProcess, f *forwarder, looping, working string) {
	t.Helper()
	backend, _ := echoTCP(t, "echo")
	looping, working = freeAddr(t), freeAddr(t)
	f = startForwarder(t, looping)
	p = startProcess(t, bothAt(looping, f.addr+" {\n name looping\n"+options+" }")+bothAt(working, backend+" {\n name working\n }"), files)
	return p, f, looping, working
}

// wantService checks that a service serves each of its clients.
func wantService(t *testing.T, addr string, clients int) {
	t.Helper()
	for i := range clients {
		conn, err := net.Dial("tcp", addr)
		relaytest.Check(t, err)
		_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
		if got := ask(t, conn, "x"); got != "echo x" {
			t.Errorf("client %d: answer %q", i, got)
		}
		conn.Close()
	}
}

func (p *caddyProcess) openFiles() int {
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(files)
}

// A TCP loop over another program ends: its client is refused. It takes nothing from
// other services, also while clients begin it again and again.
func TestTCPLoopOverAnotherProgram(t *testing.T) {
	for _, test := range []struct {
		name, options string
		files         int
	}{
		{"plain", "", 400},
		{"first_byte_timeout", "first_byte_timeout 1m\n", 400},
		{"few descriptors", "", 80}, // much of which is open at rest
	} {
		t.Run(test.name, func(t *testing.T) {
			p, f, looping, working := startLoopOverProgram(t, test.options, test.files)
			wantRefused(t, looping)
			if n := f.clients.Load(); n < 10 {
				t.Fatalf("the loop had %d turns, so it was none", n)
			}
			stop, rounds := make(chan struct{}), atomic.Int64{}
			var clients sync.WaitGroup
			for range 2 {
				clients.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						wantRefused(t, looping)
						rounds.Add(1)
					}
				})
			}
			for done := rounds.Load(); rounds.Load() < done+10; {
				wantService(t, working, 6)
			}
			close(stop)
			clients.Wait()
			relaytest.Eventually(t, "the descriptors of the loop to be closed", func() bool { return p.openFiles() < 60 })
			p.awaitLines("client refused, too many from the backend's address", 1) // names the cause
		})
	}
}

// Datagrams do not run through a loop over another program for ever: the limit for new
// sessions without an answer ends it. The turns of one datagram would be slower than
// that limit on a busy machine, where each waits for two processes.
func TestUDPLoopOverAnotherProgram(t *testing.T) {
	p, f, looping, working := startLoopOverProgram(t, "", 400)
	for range 50 { // each begins a chain of sessions
		_, _ = dial(t, "udp", looping).Write([]byte("x"))
	}
	relaytest.Eventually(t, "the loop to end", func() bool { return len(p.lines("client refused, too many from the backend's address")) > 0 })
	wantService(t, working, 6)
	relaytest.Eventually(t, "the last turn of the loop", func() bool {
		before := f.clients.Load()
		time.Sleep(100 * time.Millisecond)
		return f.clients.Load() == before
	})
	if n := f.clients.Load(); n < 100 {
		t.Errorf("the loop had %d turns, so it was none", n)
	}
	relaytest.Eventually(t, "the sockets of the loop to be closed", func() bool { return p.openFiles() < 60 })
	wantService(t, working, 6)
}
