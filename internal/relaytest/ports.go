package relaytest

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
)

// Ports hands out free ports for servers that tests start later. They are below
// the ephemeral ports, so that no outgoing connection takes one, and belong to
// this process, so that no other test process takes one either.
type Ports struct {
	first int
	next  atomic.Int32
	claim net.Listener // on the first port; never closed: the system closes it with the process
}

// Ports are claimed in blocks.
const (
	firstPort = 10000
	endPort   = 30000
	blockSize = 500
)

// ClaimPorts claims a block of ports for this process. Assign the result to a
// variable of the package, so that the claim's descriptor is open before tests
// count descriptors. If all blocks are taken, [Ports.Free] fails the tests.
func ClaimPorts() *Ports {
	for first := firstPort; first < endPort; first += blockSize {
		if claim, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first)); err == nil {
			return &Ports{first: first, claim: claim}
		}
	}
	return new(Ports)
}

// Free returns a port that is free for TCP and UDP on all addresses. It returns
// each port of the block before it returns one again.
func (p *Ports) Free(t testing.TB) int {
	t.Helper()
	if p.claim == nil {
		t.Fatalf("no free block of ports from %d to %d", firstPort, endPort)
	}
	var last error
	for range blockSize {
		port := p.first + 1 + int(p.next.Add(1))%(blockSize-1)
		tcp, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		if err != nil {
			last = err
			continue
		}
		tcp.Close()
		udp, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
		if err != nil {
			last = err
			continue
		}
		udp.Close()
		return port
	}
	t.Fatalf("no free port: %v", last)
	return 0
}
