package handler

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// Client is a TCP client as the relay is given it. The relay closes it.
type Client struct {
	// Conn is what the client's bytes are read from and answers written to.
	Conn net.Conn
	// Early is what was read from Conn already, by whoever decided that it
	// comes here; it goes to the backend first.
	Early []byte
	// CloseWrite tells the client that no more bytes come, while its own are
	// still read; nil where Conn has no way to, and the end of one direction
	// has to be the end of both.
	CloseWrite func() error
	// Socket is the plain socket beneath Conn, Conn itself where nothing wraps
	// it. It is what gets reset; nil where it cannot be reached.
	Socket net.Conn
	// Detach gives a descriptor of the client's that does not block and that
	// the relay closes, and has Conn forget the client but for its addresses.
	// It is nil where Conn is more than a plain socket.
	Detach func() (fd int, err error)

	header int // how much of Early is not the client's
}

// reset cuts the client off with a reset, if there is a socket to reset.
func (c Client) reset() {
	if c.Detach != nil {
		if fd, err := c.Detach(); err == nil {
			netio.ResetDescriptor(fd)
			_ = c.Conn.Close() // where it still has a descriptor of its own, somebody may be reading it
			return
		}
	}
	if c.Socket != nil {
		netio.Reset(c.Socket)
	}
	_ = c.Conn.Close()
}

// abandon is reset after a panic: what has panicked may do so again.
func (c Client) abandon() {
	defer func() { _ = recover() }()
	c.reset()
}

// tcpRelay is a TCP relay at work, from the client's arrival to its end.
type tcpRelay struct {
	relay  *Relay   // set once, as are client, local, began and ticket
	client net.Addr // who it is for
	local  net.Addr // where that came in
	began  time.Time
	ticket ticket

	prev, next *tcpRelay // in the service's list; guarded by Service.mu

	mu      sync.Mutex              // guards what follows
	search  context.CancelCauseFunc // ends the search for a backend; nil: there is none
	carrier carrier                 // carries the bytes, once there are two sides
	why     reason                  // it was cut; "": it was not
	backend *upstream.Backend       // who serves it; nil: nobody yet
	address netip.AddrPort          // of the backend's, and which
	tally   *tally                  // of the backend's
	tried   tried                   // the attempts, if they are to be logged
	dialled time.Duration           // how long the last one took
}

// carrier is what carries a relay's bytes until cut.
type carrier interface{ cut(why reason) }

// ServeTCP serves one client. It returns when the relay is over, or when an
// event loop has taken it over. It logs what became of it. ctx ends the search
// for a backend, not the relay that follows.
func (r *Relay) ServeTCP(ctx context.Context, client Client) {
	if t := r.admit(&client); t != nil && !t.serveOnLoop(ctx, client) {
		t.serve(ctx, client)
	}
}

// StartTCP is [Relay.ServeTCP] for those who must not wait for the relay's end,
// nor for a backend, nor meet a panic.
func (r *Relay) StartTCP(ctx context.Context, client Client) {
	defer func() {
		if p := recover(); p != nil {
			r.panicked(upstream.TCP, client.Conn.RemoteAddr().String(), p)
			client.abandon()
		}
	}()
	if t := r.admit(&client); t != nil && !t.serveOnLoop(ctx, client) {
		go t.serve(ctx, client) // ends with the relay
	}
}

// admit books a relay for a client, and puts what the backend is to hear of the
// client before what the client says. The client is turned away, and there is
// no relay, where there is no room.
func (r *Relay) admit(client *Client) *tcpRelay {
	t := &tcpRelay{relay: r, client: client.Conn.RemoteAddr(), local: client.Conn.LocalAddr(), began: time.Now()}
	if !r.service.enter(t) {
		client.abandon()
		return nil
	}
	if header := r.opts.ProxyProtocol.header(t.client, t.local); header != nil {
		client.Early = append(header, client.Early...)
		client.header = len(header)
	}
	return t
}

// serve serves the client the portable way.
func (t *tcpRelay) serve(ctx context.Context, client Client) {
	r := t.relay
	defer r.service.leave(t)
	defer func() {
		if p := recover(); p != nil {
			r.panicked(upstream.TCP, t.client.String(), p)
			client.abandon()
		}
	}()
	gone := func() bool { return client.Socket != nil && netio.PeerStateOf(client.Socket).Reset() }
	o, err := t.find(ctx, nil, gone)
	if err != nil {
		client.reset()
		t.refused(err)
		return
	}
	l := newLink(client, o.conn, r.opts.IdleTimeout)
	l.panicked = func(p any) { r.panicked(upstream.TCP, t.client.String(), p) }
	if why := t.found(l, o); why != "" {
		l.end(why)
	}
	l.up.total, l.down.total = &t.tally.bytesUp, &t.tally.bytesDown
	why := l.run()
	t.ended(why, l.up.sum, l.down.sum)
}

// find looks for a backend, from an attempt on that has begun, if it is not nil.
func (t *tcpRelay) find(ctx context.Context, from *begun, gone func() bool) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.mu.Lock()
	t.search = cancel
	why := t.why
	t.mu.Unlock()
	if why != "" {
		cancel(cutError{why})
	}
	o, err := t.relay.connect(ctx, t, from, gone)
	t.mu.Lock()
	t.search = nil
	t.mu.Unlock()
	return o, err
}

// note keeps what came of an attempt for the access log.
func (t *tcpRelay) note(o outcome) {
	if t.relay.logs(upstream.TCP) && !errors.Is(o.err, errUnchanged) { // or nobody was asked
		t.mu.Lock()
		defer t.mu.Unlock()
		t.tried.add(o)
	}
}

// carriedBy books who is to be told of a cut, before there is a backend. If the
// relay was cut before, it says why.
func (t *tcpRelay) carriedBy(c carrier) (cut reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.carrier = c
	return t.why
}

// found books what carries the relay from now on. If the relay was cut between
// the search and now, it says why; the caller ends it.
func (t *tcpRelay) found(c carrier, o outcome) (cut reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.carrier = c
	t.backend, t.address = o.attempt.Backend, netip.AddrPortFrom(o.addr, o.attempt.Backend.Port)
	t.tally, t.dialled = t.relay.service.tallies.get(t.backend, upstream.TCP), o.took
	t.tally.enter()
	t.tally.connects.observe(o.took, time.Now())
	return t.why
}

// cut ends the relay, wherever it stands.
func (t *tcpRelay) cut(why reason) {
	t.mu.Lock()
	t.why = why
	search, c := t.search, t.carrier
	t.mu.Unlock()
	if search != nil {
		search(cutError{why})
	}
	if c != nil {
		c.cut(why)
	}
}

// ended tells of the relay's end.
func (t *tcpRelay) ended(why reason, up, down int64) {
	t.tally.leave()
	t.log(record{backend: t.backend.Text, address: t.address, dialled: t.dialled, bytesUp: up, bytesDown: down, why: why})
	if line := t.relay.log.Check(zap.DebugLevel, "relay ended"); line != nil {
		line.Write(zap.Stringer("network", upstream.TCP),
			zap.Stringer("client", t.client),
			zap.String("backend", t.backend.Text),
			zap.Stringer("address", t.address),
			zap.Duration("duration", time.Since(t.began)),
			zap.Int64("bytes_up", up),
			zap.Int64("bytes_down", down),
			zap.String("reason", string(why)))
	}
}

// log writes the relay's line in the access log, if there is one.
func (t *tcpRelay) log(a record) {
	if t.relay.logs(upstream.TCP) {
		a.network, a.client, a.local, a.began = upstream.TCP, t.client, t.local, t.began
		t.mu.Lock() // of one that is cut an attempt may still come to its end
		a.tried = t.tried
		t.mu.Unlock()
		t.relay.accessed(a)
	}
}

// refused tells of a client that got no backend.
func (t *tcpRelay) refused(err error) {
	r, network := t.relay, zap.Stringer("network", upstream.TCP)
	why, over := cutOff(err)
	if errors.Is(err, errClientGone) {
		why, over = clientReset, true
	}
	if over {
		t.log(record{why: why, err: err})
		r.log.Debug("relay ended", network, zap.Stringer("client", t.client), zap.Duration("duration", time.Since(t.began)), zap.String("reason", string(why)), zap.Error(err))
		return
	}
	t.log(record{why: refusedClient, err: err})
	if dial.Class(err) == netio.Exhausted {
		r.service.floods.note(r.log, lackOfOwn, network, zap.Error(err))
	}
	r.service.floods.note(r.log, refusedTCP, network, zap.Stringer("client", t.client), zap.Error(err))
}

// cutError ends the search of a client that is cut.
type cutError struct{ why reason }

func (e cutError) Error() string { return "cut: " + string(e.why) }

// cutOff says whether err is that of a client that was cut, and why.
func cutOff(err error) (why reason, ok bool) {
	var cut cutError
	ok = errors.As(err, &cut)
	return cut.why, ok
}

// panicked tells of a panic, which is the end of one relay and of nothing else.
func (r *Relay) panicked(n upstream.Network, client string, p any) {
	r.log.Error("relay ended by a panic", zap.Stringer("network", n), zap.String("client", client), zap.Any("error", p), zap.ByteString("stack", debug.Stack()))
}
