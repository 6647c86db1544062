package upstream

import (
	"cmp"
	"net/netip"
	"sync/atomic"
	"time"
)

// Network is the transport of an attempt. Strikes, the state down and cooldowns
// are kept per network, because a successful TCP connect proves nothing about
// UDP. Both networks share the order of the queue.
type Network uint8

// The networks of a backend.
const (
	TCP Network = iota
	UDP
	networks
)

// String returns "tcp" or "udp", as in logs.
func (n Network) String() string {
	if n == UDP {
		return "udp"
	}
	return "tcp"
}

// Address is the address of a backend.
type Address struct {
	Text string     // as configured and shown, "host:port"; the backend's identity in its pool
	Host string     // the name to look up, in ASCII; the address as text where IP is valid
	Port uint16     // 1 to 65535; 0: that which the client addressed, see PortFor
	IP   netip.Addr // valid when the host is an address, which needs no lookup
}

// PortFor returns the port to dial for a client that addressed a port of the relay.
func (a *Address) PortFor(addressed uint16) uint16 { return cmp.Or(a.Port, addressed) }

// Backend is one element of a [Pool], which creates it. It remains valid after a
// reload removed it from the queue.
type Backend struct {
	Address              // set once
	literal []netip.Addr // IP where that is valid; set once

	configured int   // index in the configuration; guarded by Pool.mu
	rank       int64 // 0: stands as configured; else the number of its last demotion; guarded by Pool.mu

	drained atomic.Bool // gets no new clients; written under Pool.mu
	health  [networks]health
}

// health holds the state of a backend on one network.
type health struct {
	// bits is a word: the state and the generations. Next reads it
	// without a lock. A connect that changes no state only increments its
	// generation, by compare-and-swap without the lock. All other writes are
	// compare-and-swaps under Pool.mu, so a failed swap there means that such a
	// connect was concurrent.
	bits atomic.Uint64

	cooling   atomic.Int64                  // end of the cooldown, in nanoseconds after Pool.epoch; 0: not cooling; written under Pool.mu
	demoted   atomic.Pointer[chan struct{}] // closed and replaced at a demotion; written under Pool.mu
	preferred atomic.Pointer[netip.Addr]    // the address of the latest success
	suspicion atomic.Pointer[suspicion]     // nil: none; set under Pool.mu, cleared by any success; see suspect.go

	succeeded, failed, demotions atomic.Uint64
	failedChecks                 atomic.Uint64 // the part of failed that checks had
	failedLocally                atomic.Uint64 // not part of failed
	local                        atomic.Bool   // the latest attempt failed locally

	downSince   time.Time // zero unless down; guarded by Pool.mu
	lastFailure Failure   // guarded by Pool.mu
	struckUntil time.Time // attempts that began before it cause no second strike; guarded by Pool.mu
}

// Failure describes the latest failed attempt on a backend.
type Failure struct {
	At      time.Time
	Error   string
	Address netip.AddrPort // the address that was tried last; not valid if unknown
}

func newBackend(a Address) *Backend {
	b := &Backend{Address: a}
	if a.IP.IsValid() {
		b.literal = []netip.Addr{a.IP}
	}
	for n := range b.health {
		b.health[n].replaceDemoted()
	}
	return b
}

// Literal returns the addresses of a pool's backend that needs no lookup, that is IP, or none.
// It does not allocate. The caller must not modify them.
func (b *Backend) Literal() []netip.Addr { return b.literal }

func (h *health) load() word { return word(h.bits.Load()) }

func (h *health) swap(before, after word) (swapped bool) {
	return h.bits.CompareAndSwap(uint64(before), uint64(after))
}

// replaceDemoted sets a new channel for the attempts that begin from now on.
func (h *health) replaceDemoted() {
	ch := make(chan struct{})
	h.demoted.Store(&ch)
}

// clearDownLocked clears the fields that are set only while the backend is down.
func (h *health) clearDownLocked() {
	h.downSince = time.Time{}
	h.cooling.Store(0)
}

// Prefer stores the address on which an attempt succeeded, so that the next client
// tries it first and does not wait for a dead address of the same name again.
func (b *Backend) Prefer(n Network, addr netip.Addr) {
	h := &b.health[n]
	if last := h.preferred.Load(); last == nil || *last != addr {
		stored := addr // a copy, because &addr would allocate at every call
		h.preferred.Store(&stored)
	}
}

// Preferred returns the address stored last by [Backend.Prefer], or the zero Addr.
func (b *Backend) Preferred(n Network) netip.Addr {
	if last := b.health[n].preferred.Load(); last != nil {
		return *last
	}
	return netip.Addr{}
}

// Down reports whether the backend was demoted on n and no success has ended that.
func (b *Backend) Down(n Network) bool { return b.health[n].load().has(downBit) }

// Condemned reports whether the backend is down on n by a check: connects to it
// succeed or fail, but only a passed check ends that.
func (b *Backend) Condemned(n Network) bool {
	w := b.health[n].load()
	return w.has(downBit) && w.has(checkBit)
}

// Demotions returns how often the backend was demoted, on both networks together.
// A caller that counts successes in a row starts over when the number changes.
func (b *Backend) Demotions() (count uint64) {
	for n := range b.health {
		count += b.health[n].demotions.Load()
	}
	return count
}
