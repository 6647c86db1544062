//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The services of the backend process.
const (
	tcpEcho   = "tcp echo"
	tcpSink   = "tcp sink"   // reads and discards
	tcpSource = "tcp source" // writes as fast as it can
	udpEcho   = "udp echo"
	udpSink   = "udp sink"
	udpSource = "udp source" // sends, on command, to all clients that have sent it a datagram
)

// echoAddresses is the number of addresses of the TCP echo service, from
// 127.0.1.1 on. With one address, many connections in a row would measure how
// the kernel searches for a free port.
const echoAddresses = 64

// backendPorts holds the addresses of the backend process, which it prints when
// it is up.
type backendPorts struct {
	Addr       map[string]string // by service; for tcpEcho only the port
	Control    string
	DNS        string
	Dead, Live string // one port on two addresses
	Refusing   string
	Resetting  string // resets each connection at its first bytes
	Hanging    string // accepts, and answers nothing
}

// of returns the addresses of a service, or the backends of a failover row.
func (p backendPorts) of(service string, turn int) []string {
	switch service {
	case tcpEcho:
		return []string{net.JoinHostPort(echoIP(turn), p.Addr[tcpEcho])}
	case refusedBackend:
		return []string{p.Refusing, p.Live}
	case silentBackend:
		return []string{p.Dead, p.Live}
	case resetBackend:
		return []string{p.Resetting, p.Live}
	case hungBackend:
		return []string{p.Hanging, p.Live}
	case namedBackend:
		_, port, _ := net.SplitHostPort(p.Live)
		return []string{net.JoinHostPort(pairName, port)}
	}
	if addr, ok := p.Addr[service]; ok {
		return []string{addr}
	}
	return nil
}

func echoIP(turn int) string { return "127.0.1." + strconv.Itoa(1+turn%echoAddresses) }

// serveBackend runs the backend process. It returns when its input ends.
func serveBackend(in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(1)
	ports := backendPorts{Addr: map[string]string{}}
	if err := serveTCP(&ports); err != nil {
		return err
	}
	source, err := serveUDP(&ports)
	if err != nil {
		return err
	}
	if err := servePair(&ports); err != nil {
		return err
	}
	if ports.Control, err = serveControl(source); err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(ports); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

func serveTCP(ports *backendPorts) error {
	port := "0"
	for turn := range echoAddresses {
		addr, err := accept(net.JoinHostPort(echoIP(turn), port), echo)
		if err != nil {
			return err
		}
		_, port, _ = net.SplitHostPort(addr)
	}
	ports.Addr[tcpEcho] = port
	var err error
	if ports.Addr[tcpSink], err = accept(loopback+":0", discard); err != nil {
		return err
	}
	ports.Addr[tcpSource], err = accept(loopback+":0", fill)
	return err
}

func accept(addr string, serve func(*net.TCPConn)) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			go func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().String(), nil
}

func echo(conn *net.TCPConn) {
	buf := make([]byte, 512)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

// reset resets the connection at its first bytes.
func reset(conn *net.TCPConn) {
	_, _ = conn.Read(make([]byte, 1))
	_ = conn.SetLinger(0)
}

func discard(conn *net.TCPConn) {
	_ = discardCounted(conn, func(int) {})
}

// discardCounted reads from a connection and counts the bytes. With MSG_TRUNC
// the kernel discards them without copying.
func discardCounted(conn *net.TCPConn, count func(int)) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, _, failed = unix.Recvfrom(int(fd), discarded, unix.MSG_TRUNC)
			return failed != unix.EAGAIN
		})
		switch {
		case err != nil:
			return err
		case failed != nil:
			return failed
		case n == 0:
			return io.EOF
		}
		count(n)
	}
}

var (
	discarded = make([]byte, 1<<20) // MSG_TRUNC writes nothing to it
	filler    = make([]byte, 256<<10)
)

func fill(conn *net.TCPConn) {
	for {
		if _, err := conn.Write(filler); err != nil {
			return
		}
	}
}

// command is a request of a load process to the backend's UDP services.
type command struct {
	Op     string // send, forget, count, forget latencies, or a quantile
	Rate   int
	Size   int
	Window time.Duration
}

// serveControl reads commands, one JSON line each, and answers each with a
// number.
func serveControl(u *udpServices) (string, error) {
	return accept(loopback+":0", func(conn *net.TCPConn) {
		in, out := json.NewDecoder(conn), json.NewEncoder(conn)
		for {
			var c command
			if in.Decode(&c) != nil || out.Encode(u.execute(c)) != nil {
				return
			}
		}
	})
}

// control is a connection of a load process to serveControl.
type control struct {
	mu  sync.Mutex
	in  *json.Decoder
	out *json.Encoder
}

func dialControl(addr string) (*control, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &control{in: json.NewDecoder(conn), out: json.NewEncoder(conn)}, nil
}

func (c *control) call(request command) (n int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(request); err != nil {
		return 0, err
	}
	return n, c.in.Decode(&n)
}

// serveEcho runs an echo service in a process of its own, prints its address, and
// returns when its input ends.
func serveEcho(addr string, in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(1)
	at, err := accept(addr, echo)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(at); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// startEcho starts serveEcho and returns its address.
func startEcho(dir, addr string) (c *child, at string, err error) {
	if c, err = startChild(dir, os.Args[0], "echo", addr); err != nil {
		return nil, "", err
	}
	if err := json.NewDecoder(c.out).Decode(&at); err != nil {
		return nil, "", fmt.Errorf("echo on %s: %w: %s", addr, err, c.errorOutput())
	}
	return c, at, nil
}
