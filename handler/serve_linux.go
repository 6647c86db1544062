package handler

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is how a TCP client comes to an event loop, and how it ends there.
// Where the first backend of the queue takes it at once, which is nearly always,
// all of it happens in one go and on nobody's goroutine but the caller's. What
// takes longer, or fails, is left to the attempt loop that serves everywhere.

// takeOverAfter is how long a loop waits for a connection before the attempt
// loop takes it over, which notices if the client leaves meanwhile, tries other
// addresses beside it, and knows the connect timeout.
const takeOverAfter = 10 * time.Millisecond

// connecting is a pair's connection to its backend that is under way on the loop.
type connecting struct {
	begun
	ctx  context.Context // ends the search
	fd   int
	late *time.Timer // runs takeOver
}

// serveOnLoop has an event loop serve the client; false if it cannot. What it
// has taken is served, also if that panics.
func (t *tcpRelay) serveOnLoop(ctx context.Context, client Client) (taken bool) {
	engine, ok := t.relay.opts.TCP.(*loops)
	if !ok || client.Detach == nil {
		return false
	}
	fd, err := client.Detach()
	if err != nil {
		return false
	}
	taken = true
	p := engine.newPair(t, fd)
	defer p.guard()
	p.halves[clientSide].pending, p.halves[clientSide].skip = client.Early, client.header
	p.begin(ctx)
	return true
}

func (e *loops) newPair(t *tcpRelay, client int) *pair {
	p := &pair{relay: t, loop: e.tcp[e.nextTCP.Add(1)%uint32(len(e.tcp))], slot: -1}
	p.ends[clientSide] = end{fd: client, in: true, out: true}
	p.ends[backendSide] = end{fd: -1}
	p.idler.owner, p.idler.slot = p, -1
	return p
}

// begin makes the first attempt, if its backend's address is at hand, and has
// all others made by the attempt loop.
func (p *pair) begin(ctx context.Context) {
	r := p.relay.relay
	now := time.Now()
	b := begun{walk: r.service.Pool.Walk(upstream.TCP), since: now}
	var known bool
	if b.attempt, known = b.walk.Next(now); known {
		b.addrs, known = r.known(b.attempt.Backend)
	}
	if !known {
		go p.search(ctx, nil)
		return
	}
	b.addrs, _ = query{}.choose(b.addrs, b.attempt.Backend, upstream.TCP)
	fd, done, err := connectTCP(netip.AddrPortFrom(b.addrs[0], b.attempt.Backend.Port))
	switch {
	case err != nil:
		b.failed(err)
		go p.search(ctx, &b)
	case done:
		p.connected(b, fd)
	default:
		p.waitForBackend(&connecting{begun: b, ctx: ctx, fd: fd})
	}
}

// failed has the first address fail in the attempt loop as it failed here.
func (b *begun) failed(err error) {
	addr := netip.AddrPortFrom(b.addrs[0], b.attempt.Backend.Port)
	b.await = func(ctx context.Context) (net.Conn, error) {
		if netio.Classify(err) == netio.Exhausted {
			return dial.One(ctx, addr) // which waits for better times
		}
		return nil, dial.Failed(addr, err)
	}
}

// waitForBackend has the loop tell what becomes of a connection under way, or
// the attempt loop begin with a failure if the loop cannot.
func (p *pair) waitForBackend(c *connecting) {
	if err := p.watchBackend(c); err != nil {
		c.failed(err)
		go p.search(c.ctx, &c.begun)
	}
}

func (p *pair) watchBackend(c *connecting) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connecting = c
	p.ends[backendSide] = end{fd: c.fd, waited: true}
	why := p.relay.carriedBy(p)
	err := p.loop.add(p, backendSide)
	switch {
	case why != "":
		p.endLocked(why)
	case err != nil:
		p.leaveConnectingLocked()
		netio.CloseDescriptor(c.fd)
		return err
	default:
		c.late = time.AfterFunc(takeOverAfter, func() { p.takeOver(c) })
	}
	return nil
}

// leaveConnectingLocked takes the backend's socket, which stays open, off the loop.
func (p *pair) leaveConnectingLocked() {
	c := p.connecting
	p.connecting = nil
	if c.late != nil {
		c.late.Stop()
	}
	p.loop.forget(p, backendSide)
	p.ends[backendSide] = end{fd: -1}
}

// takeOver has the attempt loop go on with a connection that takes its time. It
// runs on the goroutine of a timer that has fired.
func (p *pair) takeOver(c *connecting) {
	defer p.guard()
	p.mu.Lock()
	if p.over || p.connecting != c {
		p.mu.Unlock()
		return
	}
	p.leaveConnectingLocked()
	p.mu.Unlock()
	c.await = func(ctx context.Context) (net.Conn, error) {
		return awaitTCP(ctx, c.fd, netip.AddrPortFrom(c.addrs[0], c.attempt.Backend.Port))
	}
	p.search(c.ctx, &c.begun)
}

// connectEventLocked is what a loop tells of a connection under way.
func (p *pair) connectEventLocked(events uint32, buf *netio.Buffer) (more bool) {
	c := p.connecting
	var errno syscall.Errno
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		errno = socketError(c.fd)
	}
	if errno == 0 {
		c.late.Stop()
		p.connecting = nil
		return p.connectedLocked(c.begun, buf)
	}
	p.leaveConnectingLocked()
	netio.CloseDescriptor(c.fd)
	c.begun.failed(os.NewSyscallError("connect", errno))
	go p.search(c.ctx, &c.begun)
	return false
}

// search looks for a backend in the attempt loop, and refuses the client if
// there is none. It is a goroutine's own, which ends with that.
func (p *pair) search(ctx context.Context, from *begun) {
	defer p.guard()
	t := p.relay
	o, err := t.find(ctx, from, func() bool { return gone(p.ends[clientSide].fd) })
	fd := -1
	if err == nil {
		if fd, err = netio.Detach(o.conn.(*net.TCPConn)); err != nil {
			_ = o.conn.Close()
		}
	}
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.over {
			p.over = true
			defer t.relay.service.leave(t) // also if what follows panics
			p.loop.remove(p)
			p.halves[clientSide].drop()
			netio.ResetDescriptor(p.ends[clientSide].fd)
			t.refused(err)
		}
		return
	}
	buf := netio.GetBuffer()
	defer buf.Free()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over { // by a cut that came with the connection, or a panic
		netio.CloseDescriptor(fd)
		return
	}
	p.ends[backendSide] = end{fd: fd, out: true}
	p.carryLocked(o, buf)
}

// connected goes on with a connection that was made at once.
func (p *pair) connected(b begun, fd int) {
	buf := netio.GetBuffer()
	defer buf.Free()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends[backendSide] = end{fd: fd, out: true}
	p.connectedLocked(b, buf)
}

func (p *pair) connectedLocked(b begun, buf *netio.Buffer) (more bool) {
	r := p.relay.relay
	p.ends[backendSide].out = true
	o := outcome{attempt: b.attempt, addr: b.addrs[0], tried: b.addrs, since: b.since, took: time.Since(b.attempt.Began)}
	o.attempt.Backend.Prefer(upstream.TCP, o.addr)
	p.relay.note(o)
	if change := b.walk.Succeeded(o.attempt, time.Now()); change.Recovered || r.log.Core().Enabled(zap.DebugLevel) {
		r.booked(change, o, upstream.TCP, p.relay.client)
	}
	return p.carryLocked(o, buf)
}

// awaitTCP waits, on an attempt's goroutine, for a connection that was begun on
// a loop.
func awaitTCP(ctx context.Context, fd int, addr netip.AddrPort) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	stop := context.AfterFunc(ctx, func() { _ = file.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, dial.Failed(addr, err)
	}
	var errno syscall.Errno
	err = raw.Write(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(poll, 0); n == 0 || errors.Is(err, unix.EINTR) {
			return false
		}
		errno = socketError(int(fd))
		return true
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: context.Cause(ctx)}
	case err != nil:
		return nil, dial.Failed(addr, err)
	case errno != 0:
		return nil, dial.Failed(addr, os.NewSyscallError("connect", errno))
	}
	return net.FileConn(file)
}
