package listen

import (
	"context"
	"net/netip"
	"slices"

	"go.uber.org/zap"
)

// A port is exclusive: no other program can bind it. The exception is the length
// of a reload. A config may replace a listener by one whose address overlaps it,
// on our networks or on Caddy's own. Then two sockets of this process hold the
// port for a moment, and the kernel allows that only if both have SO_REUSEPORT.
// Caddy's sockets always have the option. Ours get it with each config that is added
// while another one is open, and lose it when one is left.

// boundSocket is a socket of our networks.
type boundSocket interface {
	network() string // "tcp" or "udp"
	address() netip.AddrPort
	// control calls f with the descriptor, unless the socket is closed.
	control(f func(fd uintptr)) error
	start()        // takes clients from now on, for the first time or after suspend
	suspend()      // takes none, without waiting for those that are being taken
	stopped() bool // reports whether none is being taken, once the socket is suspended
}

// AddConfig records a config until ctx ends. It must be called before the config
// opens its first listener on any network. More calls with the same ctx do
// nothing. While two configs are recorded, a reload is in progress. log receives
// what the end of a reload reports.
//
// ctx must be usable as a map key.
func (s *Sockets) AddConfig(ctx context.Context, log *zap.Logger) {
	s.binding.Lock()
	defer s.binding.Unlock()
	if _, known := s.configs[ctx]; known || ctx.Err() != nil {
		return
	}
	s.configs[ctx] = log
	if s.reloading() { // again with each config: sockets may have been opened since the last one
		for _, network := range []string{"tcp", "udp"} {
			for _, socket := range s.opened(network) {
				setShared(socket, true)
			}
		}
	}
	context.AfterFunc(ctx, func() { s.removeConfig(ctx) })
}

// removeConfig ends the reload if one config remains.
func (s *Sockets) removeConfig(ctx context.Context) {
	s.binding.Lock()
	defer s.binding.Unlock()
	delete(s.configs, ctx)
	if len(s.configs) != 1 {
		return
	}
	s.tables.forget()
	for _, log := range s.configs {
		s.endSharing(append(s.opened("tcp"), s.opened("udp")...), log)
	}
}

// endSharing makes the ports of sockets exclusive again. The caller holds
// s.binding.
func (s *Sockets) endSharing(sockets []boundSocket, log *zap.Logger) {
	for _, at := range makeExclusive(sockets) {
		log.Warn("port not exclusive until restart", zap.Stringer("address", at))
	}
}

// endSharingOf makes the sockets of a network and port exclusive again, unless a
// reload is in progress. The caller holds s.binding.
func (s *Sockets) endSharingOf(network string, port uint16, log *zap.Logger) {
	if s.reloading() {
		return // removeConfig makes them exclusive
	}
	sockets := slices.DeleteFunc(s.opened(network), func(socket boundSocket) bool { return socket.address().Port() != port })
	s.endSharing(sockets, log)
}

// reloading reports whether a reload is in progress. The caller holds s.binding.
func (s *Sockets) reloading() bool { return len(s.configs) > 1 }

// opened returns the open sockets of a network, "tcp" or "udp". The caller holds
// s.binding.
func (s *Sockets) opened(network string) (sockets []boundSocket) {
	if network == "tcp" {
		for _, socket := range s.tcp {
			sockets = append(sockets, socket)
		}
		return sockets
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, socket := range s.udp {
		sockets = append(sockets, socket)
	}
	return sockets
}
