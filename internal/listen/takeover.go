package listen

import (
	"fmt"
	"net"
	"slices"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/takeover"
)

// This file has the side of the process that takes the sockets of an older one, and
// of the link between both.

// Expect adds sockets of an older process, which takes their clients until [Sockets.Begin].
// A listener on the address of one uses it and binds nothing. The sockets that no
// listener uses are closed by Begin.
func (s *Sockets) Expect(sockets ...Inherited) {
	s.binding.Lock()
	defer s.binding.Unlock()
	for _, socket := range sockets {
		if kept := s.inherited[socket.SocketAddress]; kept != nil { // the service manager has passed it to the older process
			_ = socket.File.Close()
			kept.expected = true
			continue
		}
		s.inherited[socket.SocketAddress] = &inheritance{Inherited: socket, expected: true}
	}
}

// Follow adds the UDP clients of an older process. Their datagrams go to link until the
// client ends there. The caller starts link with s as its handler, before Begin.
func (s *Sockets) Follow(link *takeover.Link, keys []takeover.Key, log *zap.Logger) error {
	s.binding.Lock()
	defer s.binding.Unlock()
	s.older = append(s.older, link)
	for _, k := range keys {
		socket, err := s.socketFor(k, log)
		if err != nil {
			return err
		}
		socket.mu.Lock()
		if socket.elsewhere == nil {
			socket.elsewhere = make(map[key]*takeover.Link)
		}
		socket.elsewhere[key{k.Client, k.Local}] = link
		socket.users++
		socket.mu.Unlock()
	}
	return nil
}

// socketFor returns the socket of a client of an older process. If no listener uses
// that socket, it opens it for such clients alone. The caller holds s.binding.
func (s *Sockets) socketFor(k takeover.Key, log *zap.Logger) (*udpSocket, error) {
	s.mu.Lock()
	socket := s.udp[k.Socket]
	s.mu.Unlock()
	if socket != nil {
		return socket, nil
	}
	inherited := s.inherited[SocketAddress{"udp", k.Socket}]
	if inherited == nil {
		return nil, fmt.Errorf("the socket at udp %s was not passed with its clients", k.Socket)
	}
	conn, err := inherited.socket()
	if err != nil {
		return nil, fmt.Errorf("socket that another process has passed: %w", err)
	}
	socket = newUDPSocket(s, k.Socket, conn.(*net.UDPConn))
	socket.users = 0
	socket.listeners.last = log
	s.mu.Lock()
	s.udp[k.Socket] = socket
	s.mu.Unlock()
	s.start(socket)
	return socket, nil
}

// Begin takes clients on the sockets that were passed with Expect. The older process
// takes none any more.
func (s *Sockets) Begin() {
	s.binding.Lock()
	defer s.binding.Unlock()
	for _, socket := range s.waiting {
		if slices.Contains(s.all(), socket) { // else it was closed meanwhile
			socket.start()
		}
	}
	s.waiting = nil
	for at, socket := range s.inherited {
		socket.expected = false
		if !socket.kept {
			_ = socket.File.Close()
			delete(s.inherited, at)
		}
	}
}

// Datagrams implements [takeover.Handler]. It delivers datagrams of a client of this
// process that the successor has received, or datagrams that an older process sends
// back because the client has ended there.
func (s *Sockets) Datagrams(l *takeover.Link, k takeover.Key, datagrams [][]byte) {
	s.mu.Lock()
	u := s.udp[k.Socket]
	s.mu.Unlock()
	if u == nil {
		s.returned(l, k, datagrams)
		return
	}
	local := key{k.Client, k.Local}
	u.mu.Lock()
	c, successor := u.clients[local], u.successor
	u.mu.Unlock()
	if successor == l {
		if c == nil || !c.deliver(datagrams...) {
			s.dropped.Add(uint64(l.Send(k, datagrams...)))
		}
		return
	}
	s.Ended(l, k) // its own report comes later
	u.delivering.Lock()
	defer u.delivering.Unlock()
	u.beginBatch(true)
	u.deliver(local, datagrams...)
}

// returned handles datagrams for a socket that is closed here. The successor gets them
// back; those of an older process have no socket any more.
func (s *Sockets) returned(l *takeover.Link, k takeover.Key, datagrams [][]byte) {
	s.binding.Lock()
	older := slices.Contains(s.older, l)
	s.binding.Unlock()
	if older {
		s.dropped.Add(uint64(len(datagrams)))
		return
	}
	s.dropped.Add(uint64(l.Send(k, datagrams...)))
}

// Ended implements [takeover.Handler]. This process takes the next datagrams of the
// client.
func (s *Sockets) Ended(l *takeover.Link, k takeover.Key) {
	s.mu.Lock()
	u := s.udp[k.Socket]
	s.mu.Unlock()
	if u == nil {
		return
	}
	local := key{k.Client, k.Local}
	u.mu.Lock()
	ended := u.elsewhere[local] == l
	if ended {
		delete(u.elsewhere, local)
	}
	u.mu.Unlock()
	if ended {
		u.leave()
	}
}

// Closed implements [takeover.Handler]. If an older process has ended, this one takes
// the datagrams of its clients. If the successor has ended, nothing reads the sockets
// any more, so their clients end and their addresses can be bound again.
func (s *Sockets) Closed(l *takeover.Link) {
	s.binding.Lock()
	s.older = slices.DeleteFunc(s.older, func(other *takeover.Link) bool { return other == l })
	s.binding.Unlock()
	s.forget(l)
	for _, u := range s.openUDP() {
		u.mu.Lock()
		var orphans []*Conn
		if u.successor == l {
			for _, c := range u.clients {
				orphans = append(orphans, c)
			}
		}
		u.mu.Unlock()
		for _, c := range orphans {
			c.End()
		}
	}
	l.Close()
}

// forNextProcess reports whether the socket has no other listener, the process is
// exiting and the service manager passes the socket to the next one.
func (u *udpSocket) forNextProcess(l *UDPListener) bool {
	if u.sockets.Exiting == nil || !u.sockets.Exiting() {
		return false
	}
	if _, listening := u.listeners.latest(l); listening {
		return false
	}
	u.sockets.binding.Lock()
	defer u.sockets.binding.Unlock()
	inherited := u.sockets.inherited[addressOf(u)]
	return inherited != nil && inherited.kept
}
