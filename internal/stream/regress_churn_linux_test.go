package stream

import (
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Relays whose client's descriptor was duplicated, as on tcp/, end in every way at
// every moment while the original stays open for a while, so that the kernel still
// watches sockets whose descriptors are in use again. Each ends once, no event
// reaches another relay, and no descriptor is left.
func TestChurnOfDuplicatedClients(t *testing.T) {
	engine := NewEngine(nil)
	if engine == nil {
		t.Skip("event loops are switched off")
	}
	relaytest.NoLeaks(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer listener.Close()
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		relaytest.Check(t, err)
		return len(list)
	}
	pair := func() (near, far *net.TCPConn) {
		conn, err := net.Dial("tcp", listener.Addr().String())
		relaytest.Check(t, err)
		accepted, err := listener.Accept()
		relaytest.Check(t, err)
		return conn.(*net.TCPConn), accepted.(*net.TCPConn)
	}
	var pairing sync.Mutex
	wheel := NewWheel(100 * time.Millisecond)
	before := open()
	var workers sync.WaitGroup
	for worker := range 16 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 60 {
				pairing.Lock()
				client, clientFar := pair()
				backendNear, backend := pair()
				pairing.Unlock()
				rules := newRecorder(t)
				m := engine.NewMover(Client{Conn: clientFar, Detacher: detachFunc(func() (int, error) { return netio.Duplicate(clientFar) })}, rules, wheel)
				if random.IntN(2) == 0 {
					_, _ = client.Write([]byte("ping"))
				}
				early := random.IntN(4) == 0
				if early {
					_ = backend.SetLinger(0)
					_ = backend.Close()
				}
				m.Carry(backendNear, rules.totals())
				if !early && random.IntN(2) == 0 {
					_, _ = client.Write([]byte("question"))
					_, _ = backend.Write([]byte("answer"))
				}
				late := time.AfterFunc(time.Duration(random.IntN(3000))*time.Microsecond, func() { clientFar.Close() })
				switch random.IntN(5) {
				case 0:
					m.Cut(Shutdown)
				case 1:
					_ = client.SetLinger(0)
					_ = client.Close()
				case 2:
					_ = client.Close()
					_ = backend.Close()
				case 3:
					_ = backend.Close()
					_ = client.CloseWrite()
				}
				relaytest.Receive(t, "the end", rules.ended)
				late.Stop()
				clientFar.Close()
				client.Close()
				backend.Close()
			}
		})
	}
	workers.Wait()
	relaytest.Eventually(t, "all descriptors to be closed", func() bool { return open() <= before })
}
