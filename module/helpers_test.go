package module_test

import (
	"net"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/upstream"
)

// active returns the number of relays and sessions of a service.
func active(service string) int {
	stats := module.StatsOf(service)
	return stats.Active[upstream.TCP] + stats.Active[upstream.UDP]
}

// useOf returns the counters of a backend on a network.
func useOf(service, backend string, n upstream.Network) handler.Use {
	for _, b := range module.StatsOf(service).Backends {
		if b.Backend.Text == backend {
			return b.Use[n]
		}
	}
	return handler.Use{}
}

// knock connects to addr again and again until stop. Connections may fail.
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

// serviceAt returns a name for the service at addr that no test before used.
// Services of earlier tests may still have sessions.
func serviceAt(addr string) string { return "at-" + portOf(addr) }

// askRepeatedly runs one client after the other until stop. Each asks one
// question.
func askRepeatedly(addr string, stop <-chan struct{}) {
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
