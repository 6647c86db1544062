package stream

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Connect implements [Connector].
func (m *loopMover) Connect(addr netip.AddrPort, keepAlive time.Duration) {
	defer m.guard()
	fd, done, err := netio.ConnectTCPNonblock(addr)
	w := &workspace{buf: netio.GetBuffer()}
	defer w.buf.Free()
	m.mu.Lock()
	defer m.unlock()
	switch {
	case m.ends.over:
		if err == nil {
			netio.CloseDescriptor(fd)
		}
		return
	case err != nil:
		m.rules.ConnectFailed(err)
		return
	}
	m.sockets[BackendSide] = socket{fd: fd}
	m.keepAlive, m.ackDelayed, m.nagle = keepAlive, true, nagleIdle
	if done {
		m.connectedLocked(w)
		return
	}
	m.sockets[BackendSide].watchOut = true
	if err := m.watchLocked(BackendSide); err != nil {
		m.releaseBackendLocked()
		netio.CloseDescriptor(fd)
		m.rules.ConnectFailed(err)
		return
	}
	again := m.rules.ConnectWaits(false)
	if again <= 0 {
		m.handOverLocked()
		return
	}
	m.connecting = time.AfterFunc(again, m.connectIsSlow)
}

// connectedLocked is called when the connection is established.
func (m *loopMover) connectedLocked(w *workspace) {
	m.carryLocked(m.rules.Connected(), w)
	if !m.ends.over {
		m.sendAckLocked() // with the first write, the kernel may have sent it already
	}
}

// sendAckLocked makes the kernel send the acknowledgement of the backend's handshake, now or
// when the backend answers, unless it was sent with the first bytes.
func (m *loopMover) sendAckLocked() {
	if m.ackDelayed {
		netio.SetQuickAck(m.sockets[BackendSide].fd)
	}
	m.ackDelayed = false
}

// connectEventLocked handles an event of the connection that is under way.
func (m *loopMover) connectEventLocked(events netio.Events, w *workspace) {
	fd := m.sockets[BackendSide].fd
	var errno syscall.Errno
	if events&(netio.Failed|netio.HungUp) != 0 {
		errno = netio.SocketError(fd)
	}
	m.connecting.Stop()
	m.connecting = nil
	if errno == 0 {
		m.connectedLocked(w)
		return
	}
	m.releaseBackendLocked()
	netio.CloseDescriptor(fd)
	m.rules.ConnectFailed(netio.Received(os.NewSyscallError("connect", errno)))
}

// connectIsSlow is called by the timer.
func (m *loopMover) connectIsSlow() {
	m.mu.Lock()
	defer m.unlock()
	if m.ends.over || m.connecting == nil {
		return
	}
	again := m.rules.ConnectWaits(netio.PeerStateOfFD(m.sockets[ClientSide].fd).Reset())
	if again > 0 {
		m.connecting.Reset(again)
		return
	}
	m.handOverLocked()
}

// handOverLocked hands a slow connection over.
func (m *loopMover) handOverLocked() {
	m.connecting = nil
	fd := m.sockets[BackendSide].fd
	m.setBackendKeepAliveLocked()
	m.sendAckLocked()
	m.releaseBackendLocked()
	m.rules.ConnectSlow(Pending{
		await: func(ctx context.Context) (net.Conn, error) { return netio.AwaitConnect(ctx, fd) },
		close: func() { netio.CloseDescriptor(fd) },
	})
}

// releaseBackendLocked removes the backend's socket from the loop and from the
// relay without closing it.
func (m *loopMover) releaseBackendLocked() {
	s := &m.sockets[BackendSide]
	if s.token != 0 {
		m.loop.poller.Unwatch(s.token, s.fd)
	}
	*s = socket{fd: -1}
	m.keepAlive, m.ackDelayed, m.nagle = 0, false, nagleOff
}
