package dgram

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// stuckLoop returns an engine whose only loop does nothing until release is
// called.
func stuckLoop(t *testing.T) (e *loops, release func()) {
	t.Helper()
	forgetPorts()
	e = newLoops(1, nil)
	backend := relaytest.NewUDPBackend(t, relaytest.Echo)
	stuck := newStuckSink()
	blocker := openSocket(t, e, backend.Addr, stuck)
	relaytest.Check(t, send(blocker, []byte("a")))
	relaytest.Receive(t, "a datagram", stuck.entered)
	return e, func() {
		close(stuck.release)
		blocker.Close()
	}
}

// An ICMP error about a datagram of an ended session is not passed to the next
// session on the socket, although both have one backend and the loop reads the
// error only then.
func TestReusedSocketDropsErrorsOfEndedSession(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		for name, end := range map[string]func(Socket){
			"the error is pending":      func(Socket) {},
			"a send returned the error": func(s Socket) { _ = send(s, []byte("b")) },
			"sendmmsg met the error":    func(s Socket) { _ = send(s, []byte("b"), []byte("bb"), []byte("b"), []byte("bb")) },
			"many errors": func(s Socket) {
				for range 10 {
					_ = send(s, []byte("b"))
				}
			},
		} {
			t.Run(host+", "+name, func(t *testing.T) {
				free, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
				if err != nil && host == "::1" {
					t.Skip(err)
				}
				relaytest.Check(t, err)
				at := free.LocalAddr().String()
				relaytest.Check(t, free.Close())

				e, release := stuckLoop(t)
				old := openSocket(t, e, at, new(collector))
				relaytest.Check(t, send(old, []byte("refused")))
				end(old)
				old.Close()
				backend, err := net.ListenPacket("udp", at)
				relaytest.Check(t, err)
				defer backend.Close()
				time.Sleep(pauseTime)
				sink := new(collector)
				socket := openSocket(t, e, at, sink)
				defer socket.Close()
				relaytest.Check(t, send(socket, []byte("query")))
				release()
				_, err = backend.WriteTo([]byte("answer"), addressOf(socket, host))
				relaytest.Check(t, err)
				relaytest.Eventually(t, "the answer", func() bool { n, _ := sink.count(); return n == 1 })
				if _, errs := sink.received(); len(errs) > 0 {
					t.Errorf("the new session received %v", errs)
				}
			})
		}
	}
}

// addressOf returns the address of a socket on a host.
func addressOf(socket Socket, host string) net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), socket.(*loopSocket).port))
}

// At the descriptor limit a spare socket that cannot be used is closed for the
// new one.
func TestUnusableSpareSocketsAreClosedFirst(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	forgetPorts()
	e := newLoops(1, nil)
	spare := openSocket(t, e, "127.0.0.1:9", new(collector))
	restore := relaytest.LimitDescriptors(t, nextDescriptor(t))
	defer restore()
	spare.Close()
	spare.(*loopSocket).failed.Store(true) // the loop has read an error meanwhile
	socket, err := e.Open(netip.MustParseAddrPort("127.0.0.1:9"), new(collector))
	relaytest.Check(t, err)
	socket.Close()
}
