package stream

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Rules are what a mover reports to: the failover rules and the records of one
// relay. A mover calls them while it holds the relay's lock, so they must not
// block and must not call the mover.
type Rules interface {
	// Connected reports that the connection of [Connector.Connect] is
	// established. Bytes are moved from now on and added to the totals.
	Connected() Totals
	// ConnectFailed reports that this connection failed. The mover then waits for
	// Carry or Cut.
	ConnectFailed(err error)
	// ConnectWaits reports that this connection is not established at once, and
	// whether the client was reset meanwhile. It returns how long the mover waits
	// before it calls ConnectWaits again; if that is 0 or less, the mover calls
	// ConnectSlow.
	ConnectWaits(clientReset bool) (again time.Duration)
	// ConnectSlow hands over this connection, which is not established, because of
	// the result of ConnectWaits. The mover then waits for Carry or Cut.
	ConnectSlow(pending Pending)
	// Ended reports the end of the relay, exactly once. Both connections are
	// closed, or are closed by the caller after it returns.
	Ended(end End)
	// Panicked reports a panic, with the value of recover. The relay ends; other
	// relays do not.
	Panicked(value any)
}

// Totals are the counters that a relay's bytes are added to while they move, in
// addition to its own. nil counters are left out.
type Totals struct {
	Up   *atomic.Uint64 // client to backend
	Down *atomic.Uint64 // backend to client
}

// End describes the end of a relay.
type End struct {
	Reason    Reason
	Err       error // the local error of an [Exhausted] relay; otherwise nil
	BytesUp   int64 // from the client, delivered to the backend's socket
	BytesDown int64 // from the backend, delivered to the client's socket
}

// Mover moves the bytes of one relay. It owns the client from its creation. All
// methods may be called by any goroutine.
type Mover interface {
	// Carry moves bytes between the client and a backend until the relay ends,
	// and takes over the backend's connection. It returns when the calling
	// goroutine is no longer needed: movers on event loops return at once, others
	// at the end of the relay. It is called at most once.
	Carry(backend net.Conn, totals Totals)
	// Cut ends the relay with a RST to both sides. Later calls do nothing.
	Cut(reason Reason)
	// ClientReset reports whether the client has reset its connection. It is for
	// the time before Carry. A client that has only finished sending has not.
	ClientReset() bool
}

// Connector is a Mover that also connects to backends, without a goroutine.
type Connector interface {
	Mover
	// Connect starts a connection to a backend. Its result is one of the three
	// Connect calls of [Rules], which may come before Connect returns. It is
	// called at most once, and not after Carry. keepAlive is the idle time and
	// interval of TCP keep-alive probes; 0 sends none.
	Connect(addr netip.AddrPort, keepAlive time.Duration)
}

// Engine makes movers that run on event loops.
type Engine interface {
	// NewMover returns a mover for a client. It returns nil if the client cannot
	// be moved on an event loop, because it is not a plain socket or there is no
	// descriptor; the client is unchanged then.
	NewMover(client Client, rules Rules, wheel *Wheel) Connector
}

// Pending is a connection that is not established yet. Its owner must call
// either Await or Close, once.
type Pending struct {
	await func(ctx context.Context) (net.Conn, error)
	close func()
}

// Await waits until the connection is established, has failed, or ctx ends.
// The error of a ctx that ended is its cause.
func (p Pending) Await(ctx context.Context) (net.Conn, error) { return p.await(ctx) }

// Close closes the connection.
func (p Pending) Close() { p.close() }

// counter counts the bytes that one direction of a relay has delivered. It is
// used by one goroutine at a time.
type counter struct {
	sum   int64
	total *atomic.Uint64 // nil: none
	skip  int            // bytes that are still to come and are not counted
}

func (c *counter) add(n int) {
	if c.skip > 0 {
		skipped := min(n, c.skip)
		c.skip -= skipped
		n -= skipped
	}
	c.sum += int64(n)
	if c.total != nil {
		c.total.Add(uint64(n))
	}
}
