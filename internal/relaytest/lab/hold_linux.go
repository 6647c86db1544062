package lab

import (
	"context"
	"testing"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// HoldPackets makes a packet filter hold packets that this machine receives
// from a UDP port (in the chain INPUT, by NFQUEUE). delay returns how long the
// n-th packet is held, from 0.
func HoldPackets(t testing.TB, port string, delay func(n int) time.Duration) {
	t.Helper()
	const queue = 10
	run(t, "iptables", "-A", "INPUT", "-p", "udp", "--sport", port, "-j", "NFQUEUE", "--queue-num", "10")
	q, err := nfqueue.Open(&nfqueue.Config{NfQueue: queue, MaxQueueLen: 4096, Copymode: nfqueue.NfQnlCopyMeta, WriteTimeout: relaytest.Limit})
	if err != nil {
		t.Skip("NFQUEUE: ", err)
	}
	relaytest.Check(t, q.SetOption(netlink.NoENOBUFS, true))
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = q.Close()
	})
	n := 0
	hold := func(packet nfqueue.Attribute) int {
		id := *packet.PacketID
		time.AfterFunc(delay(n), func() { _ = q.SetVerdict(id, nfqueue.NfAccept) })
		n++
		return 0
	}
	if err := q.RegisterWithErrorFunc(ctx, hold, func(error) int { return 1 }); err != nil {
		t.Skip("NFQUEUE: ", err)
	}
}
