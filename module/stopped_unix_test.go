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

// stoppedClients is the number of clients of a process that is stopped, on each
// network.
const stoppedClients = 20

// stopped is a process that is stopped while it has relays.
type stopped struct {
	*caddyProcess
	name              string
	at                string
	streams, sessions [stoppedClients]net.Conn
	sources           [stoppedClients]string // of the sessions, as the backend sees them
}

// startToStop starts a process.
func startToStop(t *testing.T, disabled string) *stopped {
	t.Helper()
	t.Setenv("RELAY_DISABLE", disabled)
	tcp, _ := echoTCP(t, "b")
	udp, at := sourceUDP(t), freeAddr(t)
	p := &stopped{name: over.tcp + " without " + disabled, at: at}
	p.caddyProcess = startProcess(t, block("TCP/"+at, tcp+" {\n idle_timeout 3s\n }")+block("UDP/"+at, udp+" {\n idle_timeout 3s\n }"), 0)
	return p
}

// stop connects clients and stops the process. Then the clients send.
func (p *stopped) stop(t *testing.T) {
	t.Helper()
	for i := range stoppedClients { // right before, so that no relay is idle yet
		p.streams[i], p.sessions[i] = dial(t, "tcp", p.at), dial(t, "udp", p.at)
		ask(t, p.streams[i], "x")
		p.sources[i] = ask(t, p.sessions[i], "x")
	}
	relaytest.Check(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	t.Cleanup(func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) })
	for i := range stoppedClients {
		_, err := p.streams[i].Write([]byte("y"))
		relaytest.Check(t, err)
		_, err = p.sessions[i].Write([]byte("y"))
		relaytest.Check(t, err)
	}
}

// wantSameRelays continues the process and checks that the clients are served by
// the relays they had.
func (p *stopped) wantSameRelays(t *testing.T) {
	t.Helper()
	relaytest.Check(t, p.cmd.Process.Signal(syscall.SIGCONT))
	ended, moved := 0, 0
	buf := make([]byte, 100)
	for i := range stoppedClients {
		if n, err := p.streams[i].Read(buf); err != nil || string(buf[:n]) != "b y" {
			ended++
		}
		if n, err := p.sessions[i].Read(buf); err != nil || string(buf[:n]) != p.sources[i] {
			moved++
		}
	}
	if ended > 0 || moved > 0 {
		t.Errorf("%s: of %d clients that sent while the process was stopped, %d TCP relays ended and %d UDP sessions were replaced", p.name, stoppedClients, ended, moved)
	}
}

// wantIdleEnds waits until the relays end by their idle timeout.
func (p *stopped) wantIdleEnds(t *testing.T) {
	t.Helper()
	for _, conn := range p.streams {
		readToEnd(conn)
	}
	relaytest.Eventually(t, p.name+": the ends by the idle timeout", func() bool {
		ends := make(map[any]int)
		for _, line := range p.lines("relay ended") {
			if line["reason"] == "idle_timeout" {
				ends[line["network"]]++
			}
		}
		return ends["tcp"] == stoppedClients && ends["udp"] == stoppedClients
	})
}

// A process that was stopped for longer than the idle timeout reads what its
// clients have sent in the meantime before it ends their relays as idle.
func TestStoppedProcessReadsBeforeItEndsIdleRelays(t *testing.T) {
	var all []*stopped // they are stopped at the same time
	defer func(before networks) { over = before }(over)
	for _, over = range []networks{caddys, ours} {
		all = append(all, startToStop(t, ""))
	}
	all = append(all, startToStop(t, "engine")) // on caddys the mover would be the same
	for _, p := range all {
		p.stop(t)
	}
	time.Sleep(5 * time.Second)
	for _, p := range all {
		p.wantSameRelays(t)
	}
	for _, p := range all {
		p.wantIdleEnds(t)
	}
}
