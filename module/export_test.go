package module

import (
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/listen"
	"github.com/async-relay/caddy-relay/module/api"
)

// These are the functions of the heap floor.
var (
	HeapFloorSize = heapFloorSize
	GCPercent     = gcPercent
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

// DelayClients opens another listener at an address of our networks, which is the
// latest one. Like that of the running config, it hands clients to the config's
// relay, but calls wait before. The result closes it.
func DelayClients(network, at string, wait func()) (end func(), err error) {
	turn.mu.Lock()
	app := turn.current
	turn.mu.Unlock()
	addr := netip.MustParseAddrPort(at)
	relay := app.directRelay(network, addr.Addr().String(), addr.Port(), zap.NewNop())
	opts := listen.Options{
		Log:     zap.NewNop(),
		TakeTCP: func(conn net.Conn) bool { wait(); return relay.startTCP(conn) },
		TakeUDP: func(conn *listen.Conn) listen.Sink {
			sink := relay.startUDP(conn)
			return func(datagrams [][]byte) bool { wait(); return sink(datagrams) }
		},
	}
	var ln net.Listener
	if network == networkTCP {
		ln, err = sockets.TCP(addr, opts)
	} else {
		ln, err = sockets.UDP(addr, opts)
	}
	return func() { _ = ln.Close() }, err
}

// FlushLogs waits until the logs have all lines so far.
func FlushLogs() bool { return logs.Flush(time.Minute) }

// HealthAt returns the health of all services at a time.
func HealthAt(now time.Time) api.Health { return health(nil, now) }

// FinishFile completes the Caddy configs of a YAML file before they are loaded.
func FinishFile(path string, finish func(config []byte) ([]byte, error)) error {
	f, err := yamlFiles.Open(path)
	if err == nil {
		f.SetFinish(finish)
	}
	return err
}

// LoadFile loads a YAML file with this content.
func LoadFile(path string, content []byte) error {
	f, err := yamlFiles.Open(path)
	if err == nil {
		_, err = f.Load(content)
	}
	return err
}

// TakeHandedOver gives all services the state that another process hands over.
func TakeHandedOver(state []byte) { takeHandedOver(state) }

// LockLedger locks the totals of the metrics, as a reading of them does. The result
// unlocks them.
func LockLedger() (unlock func()) {
	collected.ledger.mu.Lock()
	return collected.ledger.mu.Unlock
}

// ServicesUnlocked reports whether nothing holds the lock of all services.
func ServicesUnlocked() bool {
	unlocked := services.TryLock()
	if unlocked {
		services.Unlock()
	}
	return unlocked
}
