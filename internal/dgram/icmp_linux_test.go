package dgram

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Where the system queues ICMP errors, no error of a send says that the socket has
// failed: the ICMP errors that make sends fail may come from any host.
func TestErrorsOfSendsProveNothing(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPERM, syscall.EHOSTUNREACH} {
		if err := notFailed(os.NewSyscallError("write", errno)); err == nil || SocketFailed(err) || DatagramRejected(err) {
			t.Errorf("%v: socket failed %v, datagram rejected %v", err, SocketFailed(err), DatagramRejected(err))
		}
	}
	if !SocketFailed(notFailed(net.ErrClosed)) {
		t.Error("a closed socket has not failed")
	}
	if err := notFailed(nil); err != nil {
		t.Error(err)
	}
}

// Sends to a port without a listener succeed, however many of them are refused.
func TestEngineSendsAfterRefusals(t *testing.T) {
	overEngines(t, func(t *testing.T, engine Engine) {
		sink := new(collector)
		socket := openSocket(t, engine, deadAddr, sink)
		defer socket.Close()
		for range 200 {
			if err := send(socket, []byte("a")); SocketFailed(err) {
				t.Fatal(err)
			}
		}
		relaytest.Eventually(t, "an ICMP error", func() bool { _, errs := sink.count(); return errs > 0 })
		_, errs := sink.received()
		var icmp *ICMPError
		if errors.As(errs[0], &icmp); icmp == nil || !icmp.FromBackend {
			t.Errorf("%v", errs[0])
		}
	})
}
