package upstream

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Network is the transport of an attempt. Strikes, demotion and cooldown are
// kept apart for each: a connect that succeeds on TCP says nothing of UDP.
// The order of the queue is one for both.
type Network uint8

// The networks of a backend.
const (
	TCP Network = iota
	UDP
	networks
)

// String returns "tcp" or "udp", as it stands in logs.
func (n Network) String() string {
	if n == UDP {
		return "udp"
	}
	return "tcp"
}

// Address says where a backend is.
type Address struct {
	Text string     // as configured and shown, "host:port"; the backend's identity in its pool
	Host string     // the name to look up, in ASCII; the address as text where IP is valid
	Port uint16     // 1 to 65535
	IP   netip.Addr // valid when the host is an address, which needs no lookup
}

// Backend is one entry of a [Pool]. It is made by the pool and lives as long
// as anything holds it, also after a reload took it out of the queue.
type Backend struct {
	Address // set once

	configured int   // place in the configuration, from 0; guarded by Pool.mu
	rank       int64 // 0 as configured, else the number of the demotion that moved it back; guarded by Pool.mu

	drained atomic.Bool // nobody new is sent here; written under Pool.mu
	health  [networks]health
}

// health is what is known of a backend on one network.
type health struct {
	// word packs generation, down and strikes, so that Next and a success in
	// good times need no lock. Anything but such a success is written under
	// Pool.mu.
	word atomic.Uint64

	cooling atomic.Int64                  // passed over until then, in nanoseconds after Pool.epoch; 0: not cooling; written under Pool.mu
	demoted atomic.Pointer[chan struct{}] // closed and replaced at a demotion; written under Pool.mu
	prefer  atomic.Pointer[netip.Addr]    // the address that succeeded last

	succeeded, failed, demotions atomic.Uint64

	downSince   time.Time // zero unless down; guarded by Pool.mu
	lastFailure Failure   // guarded by Pool.mu
}

// The layout of health.word.
const (
	strikeBit = 1 << 0 // one strike; the second is the demotion
	downBit   = 1 << 1 // demoted, and not succeeded since
	genUnit   = 1 << 2 // the generation counts in the bits above
	stateMask = genUnit - 1
)

func generation(word uint64) uint64 { return word / genUnit }

// Failure is the latest failed attempt on a backend.
type Failure struct {
	At      time.Time
	Error   string
	Address netip.AddrPort // the one that was tried last; not valid if there was none
}

func newBackend(a Address) *Backend {
	b := &Backend{Address: a}
	for n := range b.health {
		b.health[n].renewDemoted()
	}
	return b
}

// renewDemoted gives the next attempts a channel of their own to wait on.
func (h *health) renewDemoted() {
	ch := make(chan struct{})
	h.demoted.Store(&ch)
}

// upLocked forgets what came with being down.
func (h *health) upLocked() {
	h.downSince = time.Time{}
	h.cooling.Store(0)
}

// Prefer remembers the address that an attempt succeeded on, so that the next
// client tries it first and does not pay again for a dead one beside it.
func (b *Backend) Prefer(n Network, addr netip.Addr) {
	h := &b.health[n]
	if last := h.prefer.Load(); last == nil || *last != addr {
		kept := addr // or addr itself would be allocated at every call
		h.prefer.Store(&kept)
	}
}

// Preferred is the address an attempt succeeded on last; the zero Addr if none did.
func (b *Backend) Preferred(n Network) netip.Addr {
	if last := b.health[n].prefer.Load(); last != nil {
		return *last
	}
	return netip.Addr{}
}

// Down says whether the backend was demoted on n and has not succeeded since.
func (b *Backend) Down(n Network) bool { return b.health[n].word.Load()&downBit != 0 }

// Demotions counts how often the backend was demoted, on whichever network:
// who has counted its successes begins anew when this is another number.
func (b *Backend) Demotions() (count uint64) {
	for n := range b.health {
		count += b.health[n].demotions.Load()
	}
	return count
}
