package listen

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A reload that widens many addresses reads the kernel's table once a second, not
// once for each.
func TestWideningManyAddresses(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			relaytest.NoLeaks(t)
			s := NewSockets()
			open := func(host string, port uint16) {
				if network == "tcp" {
					openTCP(t, s, address(t, host, port))
				} else {
					openUDP(t, s, address(t, host, port))
				}
			}
			addConfig(t, s)
			ports := make([]uint16, 100)
			for i := range ports {
				ports[i] = freePort(t)
				open("127.0.0.1", ports[i])
			}
			addConfig(t, s)
			reads, began := 0, time.Now()
			for last := (*table)(nil); len(ports) > 0; ports = ports[1:] {
				open("0.0.0.0", ports[0])
				if now := s.tables[network]; now != last {
					// One that lacks a socket is read again, see TestTableLacksASocket.
					if last == nil || len(last.byPort[ports[0]]) > 0 {
						reads++
					}
					last = now
				}
			}
			if most := 2 + int(time.Since(began)/maxTableAge); reads > most {
				t.Errorf("%d reads, want at most %d", reads, most)
			}
		})
	}
}

// A table that is kept does not hide what has changed since: a socket that was
// opened makes the bind fail, and one that was closed is no obstacle.
func TestTableIsOutdated(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	addConfig(t, s)
	addConfig(t, s)
	first, closed, opened := freePort(t), freePort(t), freePort(t)
	openTCP(t, s, address(t, "127.0.0.1", first))
	other, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(closed)})
	relaytest.Check(t, err)
	openTCP(t, s, address(t, "0.0.0.0", first)) // reads the table
	relaytest.Check(t, other.Close())
	openTCP(t, s, address(t, "127.0.0.1", closed))
	openTCP(t, s, address(t, "0.0.0.0", closed))

	other, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(opened)})
	relaytest.Check(t, err)
	if _, err := s.TCP(address(t, "0.0.0.0", opened), quiet()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
	relaytest.Check(t, other.Close())
	openTCP(t, s, address(t, "0.0.0.0", opened))
}

// The kernel's table may lack a socket: it is written page by page, and skips sockets
// if others are closed in between. It is read again then.
func TestTableLacksASocket(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	addConfig(t, s)
	at := freeAddr(t, "127.0.0.1")
	openUDP(t, s, at)
	addConfig(t, s)

	defer func(before string) { procSelf = before }(procSelf)
	procSelf = t.TempDir()
	file := filepath.Join(procSelf, "net", "udp")
	relaytest.Check(t, os.Mkdir(filepath.Dir(file), 0o700))
	relaytest.Check(t, syscall.Mkfifo(file, 0o600))
	relaytest.Check(t, os.Symlink("/proc/self/net/udp", file+".real"))
	result := make(chan error, 1)
	go func() { // ends with the first read
		first, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err == nil {
			err = os.Rename(file+".real", file) // for all later reads
			_, _ = first.WriteString("sl local_address\n")
			first.Close()
		}
		result <- err
	}()
	openUDP(t, s, address(t, "0.0.0.0", at.Port()))
	relaytest.Check(t, relaytest.Receive(t, "the first read", result))
}
