package module_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

func init() { roles["chaos backend"] = chaosBackend }

// floodMark begins the datagrams of the flood, which backends do not answer.
const floodMark = "\x00flood"

// chaosBackend is a backend in a process of its own. Its arguments are the service,
// its name, the number of answers to a datagram, and its address. On TCP it sends
// back what it receives. On UDP it answers with its name and the datagram. It
// prints a line for each datagram of another service.
func chaosBackend() {
	service, name, answers, at := os.Args[1], os.Args[2], len(os.Args[3]), os.Args[4]
	fail := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	ln, err := net.Listen("tcp", at)
	fail(err)
	pc, err := net.ListenPacket("udp", at)
	fail(err)
	raw, err := pc.(*net.UDPConn).SyscallConn()
	fail(err)
	fail(raw.Control(func(fd uintptr) { // for what arrives while the process is stopped
		fail(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	}))
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			fail(err)
			if bytes.HasPrefix(buf[:n], []byte(floodMark)) {
				continue
			}
			if m, ok := markIn(buf[:n]); !ok || m.service != service {
				fmt.Println("foreign datagram:", shortened(buf[:n]))
			}
			answer := fmt.Appendf(nil, "%s\n%s", name, buf[:n])
			for range answers {
				_, _ = pc.WriteTo(answer, from)
			}
		}
	}()
	fmt.Println("ready")
	for {
		conn, err := ln.Accept()
		fail(err)
		go func() {
			defer conn.Close()
			_, _ = conn.(*net.TCPConn).WriteTo(struct{ net.Conn }{conn})
		}()
	}
}

// backendProcess is a backend that can be killed, started again, stopped and
// continued.
type backendProcess struct {
	t       *testing.T
	host    *lab.Host
	args    []string
	process *process
	outputs []string // the output files of its processes
}

// startBackend starts a backend on a host.
func startBackend(t *testing.T, host *lab.Host, service, name string, answers int, addr string) *backendProcess {
	t.Helper()
	b := &backendProcess{t: t, host: host, args: []string{service, name, strings.Repeat("x", answers), addr}}
	b.start()
	return b
}

func (b *backendProcess) start() {
	b.t.Helper()
	self, err := os.Executable()
	relaytest.Check(b.t, err)
	cmd := b.host.Command(self, b.args...)
	b.process = spawn(b.t, "chaos backend", cmd)
	b.outputs = append(b.outputs, b.process.output)
	relaytest.Eventually(b.t, "the backend to listen", func() bool { return strings.HasPrefix(b.process.text(), "ready\n") })
}

// kill returns after the kernel has closed all sockets of the process.
func (b *backendProcess) kill() {
	_ = b.process.cmd.Process.Kill()
	<-b.process.ended
}

func (b *backendProcess) signal(s syscall.Signal) {
	b.t.Helper()
	relaytest.Check(b.t, b.process.cmd.Process.Signal(s))
}

// foreign returns the lines about datagrams of other services.
func (b *backendProcess) foreign() (lines []string) {
	for _, path := range b.outputs {
		text, err := os.ReadFile(path)
		relaytest.Check(b.t, err)
		for line := range strings.Lines(string(text)) {
			if line != "ready\n" {
				lines = append(lines, b.args[1]+": "+line)
			}
		}
	}
	return lines
}
