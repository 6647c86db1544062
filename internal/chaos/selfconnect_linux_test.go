package chaos

import (
	"os"
	"testing"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// A session whose socket is its own peer is a refused attempt: the client would
// receive its own datagrams. It happens if the kernel chooses the port of a dead
// local backend as the local port. Here it is the only free one.
func TestSessionThatIsItsOwnPeerIsRefused(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	standby := namedBackend(t, "standby", "127.0.0.1:53")
	standby6 := namedBackend(t, "standby", "[::1]:53")
	relaytest.Check(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40001"), 0))
	for dead, alive := range map[string]string{
		"127.0.0.1:40000": standby, "[::1]:40000": standby6,
		"0.0.0.0:40000": standby, "[::]:40000": standby6, // the kernel connects them to loopback
	} {
		t.Run(dead, func(t *testing.T) {
			overEngines(t, func(t *testing.T, engine dgram.Engine) {
				s := newService(t, engine, nil, dead, alive)
				for range 10 {
					c := s.newClient()
					c.send("a")
					c.wants(t, "standby a")
					s.Cut()
				}
				if failed := s.logs.FilterMessage("backend failed, second strike").Len(); failed != 1 {
					t.Errorf("%d second strikes of the dead backend, want 1", failed)
				}
			})
		})
	}
}
