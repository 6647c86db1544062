package handler

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// tcpRelay is the relay of one TCP client, from its arrival to its end. It
// implements [stream.Rules] for the mover of its bytes.
//
// Lock order: the mover's lock is taken before mu and before those of Service.
type tcpRelay struct {
	relay  *Relay // set once, as are client, local, began and ticket
	client net.Addr
	local  net.Addr      // the listener's address
	began  time.Duration // after sessions.epoch, which takes less memory than a time
	ticket ticket
	ended  bool // Ended was called; guarded by mu, here to save memory, as is sameHost
	// sameHost is how much the relay counts as one between addresses of one machine.
	sameHost uint8

	prev, next *tcpRelay // in the service's list; guarded by Service.mu

	mu      sync.Mutex        // guards the fields below
	mover   stream.Mover      // nil before setMover
	first   *startedAttempt   // that the mover makes on an event loop; nil: none
	search  *search           // for a backend; nil: there is none
	err     error             // why there is no backend, or a cutError if the relay was cut; nil: none of these
	backend *upstream.Backend // that serves the client; nil: none yet
	address netip.AddrPort    // of the backend
	tally   *tally            // of the backend
	notes   *tcpNotes         // for the access log; nil: none yet
	dialled time.Duration     // duration of the last attempt
	origin  *origin           // nil until needed, see [tcpRelay.chain]
}

// ServeTCP serves one client and logs the end of its relay. It returns at the
// relay's end, or once an event loop has taken over the client. ctx ends the
// search for a backend, not the relay that follows. It returns false, and leaves
// the client as it is, if the relay was retired.
func (r *Relay) ServeTCP(ctx context.Context, client stream.Client) (taken bool) {
	serve, taken := r.startTCP(ctx, client)
	if serve != nil {
		serve()
	}
	return taken
}

// StartTCP is [Relay.ServeTCP] for callers that must not block and must not see a
// panic.
func (r *Relay) StartTCP(ctx context.Context, client stream.Client) (taken bool) {
	taken = true // after a panic
	defer r.recoverClient(client)
	serve, taken := r.startTCP(ctx, client)
	if serve != nil {
		go func() { // ends with the relay
			defer r.recoverClient(client)
			serve()
		}()
	}
	return taken
}

// recoverClient is deferred by what runs before a relay has a mover: a panic resets
// the client.
func (r *Relay) recoverClient(client stream.Client) {
	if value := recover(); value != nil {
		r.panicked(upstream.TCP, client.Conn.RemoteAddr().String(), value)
		client.ResetAfterPanic()
	}
}

// startTCP admits a client, unless the relay was retired. It returns no function if
// the client was refused or is served on an event loop, or else one that serves it
// and returns at the end of its relay.
func (r *Relay) startTCP(ctx context.Context, client stream.Client) (serve func(), taken bool) {
	t := &tcpRelay{relay: r, client: client.Conn.RemoteAddr(), local: client.Conn.LocalAddr(), began: time.Since(r.service.sessions.epoch)}
	admission := &r.service.admission
	place, refusal := admission.admit(&r.opts, ipOf(t.client))
	if refusal == "" {
		t.ticket = place
		return t.start(ctx, client, false)
	}
	switch r.service.beginWait(r) {
	case errRetired:
		return nil, false
	case errClosing:
		client.ResetAfterPanic()
		return nil, true
	}
	var queued *queuedClient
	if refusal != RefusedDenied {
		queued = admission.enqueue(&r.opts, ipOf(t.client))
	}
	if queued == nil {
		r.service.endWait()
		r.service.refuse(t, refusal)
		client.ResetAfterPanic()
		return nil, true
	}
	return func() {
		if serve := t.startQueued(ctx, client, queued, refusal); serve != nil {
			serve()
		}
	}, true
}

// startQueued starts the relay of a queued client once it is admitted. It refuses the
// client if that takes too long. It returns what startTCP does.
func (t *tcpRelay) startQueued(ctx context.Context, client stream.Client, queued *queuedClient, refusal Refusal) (serve func()) {
	service := t.relay.service
	defer service.endWait()
	place, admitted := service.admission.await(queued)
	if !admitted {
		service.refuse(t, refusal)
		client.ResetAfterPanic()
		return nil
	}
	t.ticket = place
	serve, _ = t.start(ctx, client, true)
	return serve
}

// start starts the relay of a client that was admitted, perhaps after it was queued.
// It returns what startTCP does. A panic gives the place back and continues.
func (t *tcpRelay) start(ctx context.Context, client stream.Client, queued bool) (serve func(), taken bool) {
	r := t.relay
	switch r.service.enter(t, queued) {
	case errRetired:
		return nil, false
	case errClosing:
		client.ResetAfterPanic()
		return nil, true
	}
	if client.Socket != nil && client.Socket != client.Conn {
		t.origin = &origin{socketAddrs: socketAddrs{addrPortOf(client.Socket.RemoteAddr()), addrPortOf(client.Socket.LocalAddr())}}
	}
	started := false
	defer func() {
		if !started && t.mover == nil {
			r.service.leave(t)
		}
	}()
	if header := r.opts.ProxyProtocol.header(t.client, t.local); header != nil {
		client.Early = append(header, client.Early...)
		client.HeaderLen = len(header)
	}
	if r.opts.KeepAlive != netio.DefaultKeepAlive {
		client.SetKeepAlive(r.opts.KeepAlive)
	}
	if r.opts.trials() {
		t.setMover(stream.NewTrial(client, t, r.wheel, r.opts.TCP, r.opts.trialLimits()))
	} else if mover := t.newConnector(client); mover != nil {
		t.setMover(mover)
		started = true
		t.connect(ctx, mover)
		return nil, true
	} else {
		t.setMover(stream.NewMover(client, t, r.wheel))
	}
	started = true
	return func() {
		defer t.guard()
		if client.InReserve() { // only listeners of other packages accept such clients
			r.service.sessions.budget.FreeDescriptor() // for the next one
			t.refuse(netio.ErrReserved)
			return
		}
		t.serve(ctx, nil)
	}, true
}

// newConnector returns a mover on an event loop, or nil if the client cannot be
// moved there. A client whose descriptor is in the reserve gets another one.
func (t *tcpRelay) newConnector(client stream.Client) stream.Connector {
	r := t.relay
	if r.opts.TCP == nil {
		return nil
	}
	mover := r.opts.TCP.NewMover(client, t, r.wheel)
	if mover == nil && client.Detacher != nil && client.InReserve() && r.service.sessions.budget.FreeDescriptor() {
		mover = r.opts.TCP.NewMover(client, t, r.wheel)
	}
	return mover
}

// setMover sets what moves the relay's bytes, and cuts a relay that was cut
// before.
func (t *tcpRelay) setMover(m stream.Mover) {
	t.mu.Lock()
	t.mover = m
	cut, was := t.err.(cutError)
	t.mu.Unlock()
	if was {
		m.Cut(cut.reason)
	}
}

// beganAt returns when the client arrived.
func (t *tcpRelay) beganAt() time.Time { return t.relay.service.sessions.epoch.Add(t.began) }

// guard is deferred by what runs for the relay outside its mover: a panic ends
// this relay and no other.
func (t *tcpRelay) guard() {
	if value := recover(); value != nil {
		t.Panicked(value)
		t.mover.Cut(stream.Panicked)
	}
}

// connect makes the first attempt on the event loop, without a goroutine, if the
// addresses of its backend are cached. The attempt loop makes all others.
func (t *tcpRelay) connect(ctx context.Context, m stream.Connector) {
	defer t.guard()
	r := t.relay
	now := time.Now()
	a := startedAttempts.Get().(*startedAttempt)
	*a = startedAttempt{ctx: ctx, walk: r.walk(upstream.TCP), since: now}
	var known bool
	if a.attempt, known = a.walk.Next(now); known {
		a.addrs, known = r.known(a.attempt.Backend)
	}
	if !known || r.service.holds.requested.Load() || r.service.drills.active.Load() > 0 || a.attempt.Suspect() {
		go t.serve(ctx, nil) // ends when a backend was found, or none
		return
	}
	a.addrs, _ = query{}.choose(a.addrs, a.attempt.Backend, upstream.TCP)
	port := t.portOf(a.attempt.Backend)
	if port == 0 || t.mayLoop(port, a.addrs) {
		go t.serve(ctx, nil) // ends when a backend was found, or none
		return
	}
	addr := netip.AddrPortFrom(a.addrs[0], port)
	t.mu.Lock()
	t.first = a // the mover's from now on
	t.mu.Unlock()
	m.Connect(addr, r.opts.KeepAlive)
}

// portOf returns the port of a backend for this client.
func (t *tcpRelay) portOf(b *upstream.Backend) uint16 {
	if b.Port != 0 {
		return b.Port
	}
	return b.PortFor(addrPortOf(t.local).Port())
}

// takeFirst returns the attempt that the mover has made.
func (t *tcpRelay) takeFirst() *startedAttempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.first
	t.first = nil
	return a
}

// Connected implements [stream.Rules].
func (t *tcpRelay) Connected() stream.Totals {
	a := t.takeFirst()
	now := time.Now()
	o := outcome{attempt: a.attempt, addr: a.addrs[0], port: t.portOf(a.attempt.Backend), tried: a.addrs, since: a.since, took: now.Sub(a.attempt.Began)}
	t.note(o)
	t.relay.recordSuccess(&a.walk, o, upstream.TCP, t.client, now, false)
	a.free()
	return t.found(o, now)
}

// ConnectFailed implements [stream.Rules]. The attempt continues in the attempt
// loop, where its first address fails with err. A local shortage is retried.
func (t *tcpRelay) ConnectFailed(err error) {
	a := t.takeFirst()
	a.dialFirst = func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		if netio.Classify(err) == netio.Exhausted {
			return t.relay.dialer().One(ctx, addr)
		}
		return nil, dial.Failed(addr, err)
	}
	go t.serve(a.ctx, a) // ends when a backend was found, or none
}

// ConnectWaits implements [stream.Rules]. The connection of a backend that is far away or
// silent stays on the event loop until the attempt loop has something to do for the client:
// the next address or a hedged attempt is due, connect_timeout expires, other clients have
// demoted the backend, the client has left, or its context has ended. The last three are
// noticed within watchEvery.
func (t *tcpRelay) ConnectWaits(clientReset bool) (again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.first
	first := !a.slow
	a.slow = true
	select {
	case <-a.attempt.Demoted():
		return 0
	default:
	}
	if clientReset || a.ctx.Err() != nil || first && t.relay.service.drills.active.Load() > 0 {
		return 0
	}
	return min(time.Until(a.parallel(&t.relay.opts)), watchEvery)
}

// ConnectSlow implements [stream.Rules]. The attempt continues in the attempt
// loop. A local shortage is retried.
func (t *tcpRelay) ConnectSlow(pending stream.Pending) {
	a := t.takeFirst()
	a.unused = pending.Close
	a.dialFirst = func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		a.unused = nil
		conn, err := pending.Await(ctx)
		switch {
		case err == nil:
			return conn, nil
		case netio.Classify(err) == netio.Exhausted:
			return t.relay.dialer().One(ctx, addr)
		default:
			return nil, dial.Failed(addr, err)
		}
	}
	go t.serve(a.ctx, a) // ends when a backend was found, or none
}

// serve finds a backend in the attempt loop, starting with an attempt that has
// been started already if from is not nil, and has the mover carry the bytes.
func (t *tcpRelay) serve(ctx context.Context, from *startedAttempt) {
	defer t.guard()
	o, err := t.find(ctx, from)
	if err != nil {
		t.refuse(err)
		return
	}
	totals := t.found(o, time.Now())
	if o.drill.resets() {
		o.drill.reset.Add(1)
		_ = o.conn.Close()
		t.mover.Cut(stream.BackendReset)
		return
	}
	t.mover.Carry(o.conn, totals)
}

// found records the backend that serves the client from now on, and returns its counters. A
// relay that was cut meanwhile has ended without a backend, so nothing is counted.
func (t *tcpRelay) found(o outcome, now time.Time) stream.Totals {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return stream.Totals{}
	}
	t.backend, t.address = o.attempt.Backend, o.at()
	t.tally, t.dialled = t.relay.service.tallies.get(t.backend, upstream.TCP), o.took
	t.countSameHostLocked(t.address)
	t.tally.enter()
	t.tally.connects.observe(o.took, now)
	if t.relay.mustLeave(o.attempt) {
		go t.cut(backendDown) // not here: the mover may hold its lock
	}
	return stream.Totals{Up: &t.tally.bytesUp, Down: &t.tally.bytesDown}
}

// cut ends the relay, or the search for its backend.
func (t *tcpRelay) cut(reason stream.Reason) {
	t.mu.Lock()
	if t.err == nil { // of a relay that was refused, the end may still be reported
		t.err = cutError{reason}
	}
	search, mover := t.search, t.mover
	t.mu.Unlock()
	if search != nil {
		search.cancel(cutError{reason})
	}
	if mover != nil {
		mover.Cut(reason)
	}
}

// Panicked implements [stream.Rules].
func (t *tcpRelay) Panicked(value any) {
	t.relay.panicked(upstream.TCP, t.client.String(), value)
}

// Ended implements [stream.Rules].
func (t *tcpRelay) Ended(end stream.End) {
	defer t.relay.service.leave(t) // also if logging panics
	t.mu.Lock()
	t.ended = true
	t.leaveLoopsLocked()
	served, err := t.backend != nil, t.err
	t.mu.Unlock()
	switch {
	case !served:
		t.logRefused(end.Reason, err)
		return
	case end.Reason == stream.Exhausted:
		t.relay.service.floods.note(t.relay.log, exhausted, zap.Stringer("network", upstream.TCP), zap.Error(end.Err))
	}
	t.logEnd(end)
}

// cutError is the error of a relay that was cut, and of its search.
type cutError struct{ reason stream.Reason }

// Error implements error.
func (e cutError) Error() string { return fmt.Sprintf("cut: %s", e.reason) }

// panicked logs a panic, which ends one relay and nothing else.
func (r *Relay) panicked(n upstream.Network, client string, value any) {
	r.log.Error("relay ended by a panic", zap.Stringer("network", n), zap.String("client", client), zap.Any("error", value), zap.ByteString("stack", debug.Stack()))
}
