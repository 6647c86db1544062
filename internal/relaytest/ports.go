package relaytest

import (
	"fmt"
	"net"
	"sync"
	"testing"
)

// Ports hands out free ports for servers that tests start later. They are below
// the ephemeral ports, so that no outgoing connection takes one, and belong to
// this process, so that no other test process takes one either.
type Ports struct {
	first int
	claim net.Listener // on the first port; never closed: the system closes it with the process

	mu   sync.Mutex // guards the fields below
	next int
	uses map[int]int // how often each port was returned
}

// Ports are claimed in blocks. One is large enough for a run of all tests of a package:
// what a test leaves behind, such as an answer in a cache, may be found by its port.
const (
	firstPort = 10000
	endPort   = 32000
	blockSize = 1000
)

// ClaimPorts claims a block of ports for this process. Assign the result to a
// variable of the package, so that the claim's descriptor is open before tests
// count descriptors. If all blocks are taken, [Ports.Free] fails the tests.
func ClaimPorts() *Ports {
	for first := firstPort; first < endPort; first += blockSize {
		if claim, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first)); err == nil {
			return &Ports{first: first, claim: claim, uses: make(map[int]int)}
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
	p.mu.Lock()
	defer p.mu.Unlock()
	var last error
	for range blockSize {
		p.next++
		port := p.first + 1 + p.next%(blockSize-1)
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
		p.uses[port]++
		return port
	}
	t.Fatalf("no free port: %v", last)
	return 0
}

// Uses returns how often [Ports.Free] has returned a port. A process may use up the
// block, so a port alone does not tell what belongs to the latest of its users.
func (p *Ports) Uses(port int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.uses[port]
}
