package module_test

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A service that was removed while it had a client, and returns with another backend,
// sends no client to the backend that neither the running nor the new config has.
func TestServiceReturnsWithAnotherBackend(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	between, _ := echoTCP(t, "between")
	for name, at := range map[string]string{"a": a, "b": b, "between": between} {
		echoUDP(t, name, at)
	}
	at, name, other := freeAddr(t), unique("returns"), unique("other")
	// A later client may get the port of one whose session has not ended, so each ends at once.
	config := func(name, backend string) string {
		return bothAt(at, backend+" {\n name "+name+"\n udp_responses 1\n }")
	}
	s := start(t, config(name, a))
	ask(t, dial(t, "tcp", at), "x") // stays, so that the service does
	backends := []string{a, b}
	reload := func(layer4 string) { // with an app that may start after layer4 does
		t.Helper()
		config, err := s.adapt(layer4)
		relaytest.Check(t, err)
		config = bytes.Replace(config, []byte(`"apps":{`), []byte(`"apps":{"relay_test_slow":{},`), 1)
		relaytest.Check(t, s.post("/load", "application/json", config))
	}
	for round := range 10 {
		reload(config(other, between))
		stop, old := make(chan struct{}), []string{"a", "b"}[round%2]
		var clients sync.WaitGroup
		for i := range 4 {
			network := []string{"tcp", "udp"}[i%2]
			clients.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					conn, err := net.DialTimeout(network, at, relaytest.Limit)
					if err != nil {
						t.Error(err)
						return
					}
					_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
					_, _ = conn.Write([]byte("x"))
					buf := make([]byte, 100)
					n, err := conn.Read(buf)
					conn.Close()
					if got := string(buf[:n]); err != nil || got == old+" x" {
						t.Errorf("round %d, %s: got %q, %v", round, network, got, err)
						return
					}
				}
			})
		}
		reload(config(name, backends[(round+1)%2]))
		close(stop)
		clients.Wait()
	}
}
