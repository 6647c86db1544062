package dgram

import (
	"net/netip"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestEnginePortsRest(t *testing.T) { overEngines(t, testEnginePortsRest) }

// No session gets a port whose last session ended less than restTime ago.
func testEnginePortsRest(t *testing.T, engine Engine) {
	relaytest.NoLeaks(t)
	ended := make(map[uint16]time.Time)
	for began := time.Now(); len(ended) < 2000 && time.Since(began) < relaytest.Limit; {
		socket := openSocket(t, engine, "127.0.0.1:9", new(collector))
		port := localPort(t, socket)
		if last, used := ended[port]; used && time.Since(last) < restTime-2*time.Millisecond {
			t.Errorf("port %d was used again after %v", port, time.Since(last))
		}
		ended[port] = time.Now() // not later than the end, which starts the rest
		socket.Close()
	}
}

// The port of a health probe rests too: its backend may answer once more.
func TestPortsOfProbesRest(t *testing.T) {
	conn, err := Dial(netip.MustParseAddrPort("127.0.0.1:9"))
	relaytest.Check(t, err)
	if !ports.rested(conn.port(), time.Now()) {
		t.Error("Dial returned a port that has not rested")
	}
	relaytest.Check(t, conn.Close())
	if ports.rested(conn.port(), time.Now()) {
		t.Error("the port does not rest")
	}
}
