//go:build unix

package module_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// sourceUDP starts a UDP backend that answers each datagram with the address that
// it came from.
func sourceUDP(t *testing.T) (addr string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", freeAddr(t))
	relaytest.Check(t, err)
	t.Cleanup(func() { pc.Close() })
	go func() { // ends with the socket
		buf := make([]byte, 100)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(from.String()), from)
		}
	}()
	return pc.LocalAddr().String()
}

// A process that was stopped for longer than the idle timeout reads what its
// clients have sent in the meantime before it ends their relays as idle.
func TestStoppedProcessReadsBeforeItEndsIdleRelays(t *testing.T) {
	const clients = 20
	overBoth(t, func(t *testing.T) {
		for _, disabled := range []string{"", "engine"} {
			if disabled != "" && over == caddys {
				continue // the mover is the same as on our networks
			}
			t.Run("without "+disabled, func(t *testing.T) {
				t.Setenv("RELAY_DISABLE", disabled)
				tcp, _ := echoTCP(t, "b")
				udp := sourceUDP(t)
				at := freeAddr(t)
				p := startProcess(t, block("TCP/"+at, tcp+" {\n idle_timeout 3s\n }")+block("UDP/"+at, udp+" {\n idle_timeout 3s\n }"), 0)
				var streams, sessions [clients]net.Conn
				var sources [clients]string
				for i := range clients {
					streams[i], sessions[i] = dial(t, "tcp", at), dial(t, "udp", at)
				}
				for i := range clients { // last, so that they are all fresh
					ask(t, streams[i], "x")
					sources[i] = ask(t, sessions[i], "x")
				}
				relaytest.Check(t, p.cmd.Process.Signal(syscall.SIGSTOP))
				defer func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }()
				for i := range clients {
					_, err := streams[i].Write([]byte("y"))
					relaytest.Check(t, err)
					_, err = sessions[i].Write([]byte("y"))
					relaytest.Check(t, err)
				}
				time.Sleep(5 * time.Second)
				relaytest.Check(t, p.cmd.Process.Signal(syscall.SIGCONT))
				ended, moved := 0, 0
				buf := make([]byte, 100)
				for i := range clients {
					if n, err := streams[i].Read(buf); err != nil || string(buf[:n]) != "b y" {
						ended++
					}
					if n, err := sessions[i].Read(buf); err != nil || string(buf[:n]) != sources[i] {
						moved++
					}
				}
				if ended > 0 || moved > 0 {
					t.Errorf("of %d clients that sent while the process was stopped, %d TCP relays ended and %d UDP sessions were replaced", clients, ended, moved)
				}
				// Those that stay idle still end.
				for _, conn := range streams {
					readToEnd(conn)
				}
				relaytest.Eventually(t, "the ends by the idle timeout", func() bool {
					tcp, udp := 0, 0
					for _, line := range p.lines("relay ended") {
						if line["reason"] == "idle_timeout" && line["network"] == "tcp" {
							tcp++
						} else if line["reason"] == "idle_timeout" {
							udp++
						}
					}
					return tcp == clients && udp == clients
				})
			})
		}
	})
}
