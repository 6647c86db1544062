package module_test

import (
	"fmt"
	"net"
	"strconv"
	"time"

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

// serviceAt returns a name for the service at addr that no test before used, also not
// one that had the same port. Services of earlier tests may still have sessions.
func serviceAt(addr string) string {
	port, _ := strconv.Atoi(portOf(addr)) // 0 of what is no address
	return fmt.Sprintf("at-%d-%d", port, ports.Uses(port))
}

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

// serves reports whether a new TCP client at an address that sends "x" is answered
// with want within two seconds.
func serves(at, want string) bool {
	conn, err := net.Dial("tcp", at)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	_, _ = conn.Write([]byte("x"))
	buf := make([]byte, 10)
	n, _ := conn.Read(buf)
	return string(buf[:n]) == want
}
