package module_test

import (
	"net"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/upstream"
)

// active counts the relays and sessions of a service.
func active(service string) int {
	stats := module.StatsOf(service)
	return stats.Active[upstream.TCP] + stats.Active[upstream.UDP]
}

// useOf is what a backend of a service has done on a network.
func useOf(service, backend string, n upstream.Network) handler.Use {
	for _, b := range module.StatsOf(service).Backends {
		if b.Backend.Text == backend {
			return b.Use[n]
		}
	}
	return handler.Use{}
}

// knock connects to addr, whether anybody listens there or not, until stop.
func knock(addr string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if conn, err := net.Dial("tcp", addr); err == nil {
			_, _ = conn.Read(make([]byte, 1))
			conn.Close()
		}
	}
}

// serviceAt is a name for the service at addr that no test before has had:
// sessions keep theirs for a while after a test.
func serviceAt(addr string) string { return "at-" + portOf(addr) }

// crowdWith has one client after another until stop, each with one question.
func crowdWith(addr string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if conn, err := net.Dial("tcp", addr); err == nil {
			_, _ = conn.Write([]byte("x"))
			_, _ = conn.Read(make([]byte, 10))
			conn.Close()
		}
	}
}
