package netio

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Package net sets its own keep-alive on a socket that becomes one of its connections. That
// of the socket is kept.
func TestConnOfKeepsTheKeepAlive(t *testing.T) {
	for _, want := range []time.Duration{0, 7 * time.Second} {
		for _, function := range []string{"ConnOf", "AwaitConnect"} {
			near, _ := descriptorPair(t)
			fd, errno := duplicate(uintptr(near)) // which the function takes over
			if errno != 0 {
				t.Fatal(errno)
			}
			SetKeepAlive(fd, want)
			var conn net.Conn
			var err error
			if function == "ConnOf" {
				conn, err = ConnOf(fd)
			} else {
				conn, err = AwaitConnect(t.Context(), fd)
			}
			relaytest.Check(t, err)
			defer conn.Close()
			withDescriptor(conn.(*net.TCPConn), func(fd int) {
				on, _ := Option(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
				idle, _ := Option(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
				interval, _ := Option(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
				probes, _ := Option(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
				if seconds := int(want / time.Second); (on != 0) != (want > 0) || want > 0 && (idle != seconds || interval != seconds || probes != keepAliveProbes) {
					t.Errorf("%s of a socket with %v: %d, after %d s, every %d s, %d times", function, want, on, idle, interval, probes)
				}
			})
		}
	}
}

// The first probe is due when the connection has been idle for the interval, also if it has
// been idle for a part of that already.
func TestKeepAliveCountsFromTheLatestSegment(t *testing.T) {
	const interval, idle = 10 * time.Second, 300 * time.Millisecond
	fd, _ := descriptorPair(t)
	time.Sleep(idle)
	SetKeepAlive(fd, interval)
	own, err := LocalAddr(fd)
	relaytest.Check(t, err)
	table, err := os.ReadFile("/proc/self/net/tcp")
	relaytest.Check(t, err)
	// The line of a socket has its own port, the peer's, and a keep-alive timer (02) with the
	// time until it is due, in hundredths of a second: proc_net_tcp.txt of the kernel.
	line := regexp.MustCompile(fmt.Sprintf(`: \w+:%04X \S+ 01 \S+ 02:(\w+) `, own.Port())).FindSubmatch(table)
	if line == nil {
		t.Fatalf("no keep-alive timer of port %d in:\n%s", own.Port(), table)
	}
	due, err := strconv.ParseInt(string(line[1]), 16, 64)
	relaytest.Check(t, err)
	if left := time.Duration(due) * 10 * time.Millisecond; left > interval-idle/2 {
		t.Errorf("the first probe is due in %v, after %v without a segment", left, idle)
	}
}
