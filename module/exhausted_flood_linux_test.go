package module_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A flood of single datagrams to two services, and then a flood of TCP clients,
// leave descriptors for TCP clients and UDP clients of both services, the admin
// API, the metrics and reloads.
func TestFloodsLeaveDescriptors(t *testing.T) {
	const limit = 400
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	one, two := freeAddr(t), freeAddr(t)
	config := bothAt(one, backend+" {\n name one\n }") + bothAt(two, backend+" {\n name two\n }")
	p := startProcess(t, config, limit)
	works := func(when string) {
		t.Helper()
		for range 3 {
			http.DefaultTransport.(*http.Transport).CloseIdleConnections() // each request needs a descriptor
			p.listed("one", "two")
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			p.scrape()
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			if err := p.reload(config); err != nil {
				t.Fatalf("%s: reload: %v", when, err)
			}
			for _, at := range []string{one, two} {
				// A session may have to make room for another one before its answer
				// comes, on a slow machine. Clients send again then.
				udp, got := dial(t, "udp", at), make([]byte, 100)
				relaytest.Eventually(t, when+": an answer over UDP", func() bool {
					_, _ = udp.Write([]byte("x"))
					_ = udp.SetReadDeadline(time.Now().Add(time.Second))
					n, err := udp.Read(got)
					return err == nil && string(got[:n]) == "b x"
				})
			}
		}
	}
	for _, at := range []string{one, two} {
		floodOf(t, at, limit)
	}
	works("after a flood of datagrams")
	for _, at := range []string{one, two} {
		for range 3 {
			tcp := dial(t, "tcp", at)
			if got := ask(t, tcp, "x"); got != "b x" {
				t.Fatalf("TCP after a flood of datagrams: got %q", got)
			}
			tcp.Close()
		}
	}

	var burst []net.Conn
	for range limit {
		conn, err := net.DialTimeout("tcp", one, relaytest.Limit)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // refused: clients and backends of this test are on one machine
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("x"))
		burst = append(burst, conn)
	}
	relaytest.Eventually(t, "TCP relays to have all descriptors that they may have", func() bool {
		return len(p.lines("accept failed, retrying"))+len(p.lines("client refused, too many from the backend's address")) > 0
	})
	works("in a flood of TCP clients")
	for _, conn := range burst {
		conn.Close()
	}
	relaytest.Eventually(t, "clients to be accepted again", func() bool { return serves(two, "b x") })
}

// floodOf sends datagrams to an address, each from another loopback address.
func floodOf(t *testing.T, at string, datagrams int) {
	t.Helper()
	remote, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: freePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range datagrams {
		info := unix.Inet4Pktinfo{Spec_dst: [4]byte{127, 1, byte(i >> 8), byte(i)}}
		if _, _, err := conn.WriteMsgUDP([]byte("flood"), unix.PktInfo4(&info), remote); err != nil {
			t.Fatal(fmt.Errorf("datagram %d: %w", i, err))
		}
	}
}
