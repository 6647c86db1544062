package module

import (
	"net"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/handler"
)

// ServiceOf returns the state of the service of that name, or nil if there is
// none.
func ServiceOf(name string) (found *handler.Service) {
	services.Range(func(_, value any) bool {
		if s := value.(*service); s.Name == name {
			found = s.Service
		}
		return found == nil
	})
	return found
}

// StatsOf returns the counters of the service of that name, or none if there is no
// such service.
func StatsOf(name string) handler.Stats {
	if s := ServiceOf(name); s != nil {
		return s.Stats(time.Now())
	}
	return handler.Stats{}
}

// GoesDirect reports whether clients at an address bypass layer4. The address is
// spelled as in the config.
func GoesDirect(network, at string) bool {
	turn.mu.Lock()
	app := turn.current
	turn.mu.Unlock()
	host, text, _ := net.SplitHostPort(at)
	port, _ := strconv.Atoi(text)
	log := caddy.ActiveContext().Logger(new(layer4.App))
	return app.directRelay(network, host, uint16(port), log) != nil
}

// FlushLogs waits until the logs have all lines so far.
func FlushLogs() bool { return logs.Flush(time.Minute) }
