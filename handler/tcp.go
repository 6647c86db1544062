package handler

import (
	"context"
	"errors"
	"net"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

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
}

// reset cuts the client off with a reset, if there is a socket to reset.
func (c Client) reset() {
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

// ServeTCP serves one client and returns when its relay is over. It logs what
// became of it. ctx ends the search for a backend, not the relay that follows.
func (r *Relay) ServeTCP(ctx context.Context, client Client) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &tcpRelay{search: cancel}
	if !r.service.enter(t) {
		client.abandon()
		return
	}
	defer r.service.leave(t)
	began := time.Now()
	name := client.Conn.RemoteAddr().String()
	defer func() {
		if p := recover(); p != nil {
			r.panicked(upstream.TCP, name, p)
			client.abandon()
		}
	}()
	gone := func() bool { return client.Socket != nil && netio.Gone(client.Socket) }
	conn, backend, err := r.connect(ctx, name, gone)
	if err != nil {
		client.reset()
		r.refused(name, began, err)
		return
	}
	l := newLink(client, conn, r.opts.IdleTimeout)
	l.panicked = func(p any) { r.panicked(upstream.TCP, name, p) }
	t.found(l)
	why := l.run()
	if line := r.log.Check(zap.DebugLevel, "relay ended"); line != nil {
		line.Write(zap.Stringer("network", upstream.TCP),
			zap.String("client", name),
			zap.String("backend", backend.Text),
			zap.Stringer("address", conn.RemoteAddr()),
			zap.Duration("duration", l.duration()),
			zap.Int64("bytes_up", l.up.Load()),
			zap.Int64("bytes_down", l.down.Load()),
			zap.String("reason", string(why)))
	}
}

// refused tells of a client that got no backend.
func (r *Relay) refused(client string, began time.Time, err error) {
	network := zap.Stringer("network", upstream.TCP)
	why, over := cutOff(err)
	if errors.Is(err, errClientGone) {
		why, over = clientReset, true
	}
	if over {
		r.log.Debug("relay ended", network, zap.String("client", client), zap.Duration("duration", time.Since(began)), zap.String("reason", string(why)), zap.Error(err))
		return
	}
	if classOf(err) == netio.Exhausted {
		r.service.floods.note(r.log, lackOfOwn, network, zap.Error(err))
	}
	r.service.floods.note(r.log, refusedTCP, network, zap.String("client", client), zap.Error(err))
}

// panicked tells of a panic, which is the end of one relay and of nothing else.
func (r *Relay) panicked(n upstream.Network, client string, p any) {
	r.log.Error("relay ended by a panic", zap.Stringer("network", n), zap.String("client", client), zap.Any("error", p), zap.ByteString("stack", debug.Stack()))
}
