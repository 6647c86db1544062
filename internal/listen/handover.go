package listen

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/takeover"
)

// This file has the side of the process that gives its sockets to another one. See
// package takeover for the order of the calls.

// Shared returns duplicates of all open sockets, for another process. The caller
// closes their files.
func (s *Sockets) Shared() (shared []Inherited, err error) {
	s.binding.Lock()
	defer s.binding.Unlock()
	for _, socket := range s.all() {
		file, err := duplicateFile(socket)
		if err != nil {
			for _, other := range shared {
				_ = other.File.Close()
			}
			return nil, fmt.Errorf("duplicate of the socket at %s %s: %w", socket.network(), socket.address(), err)
		}
		shared = append(shared, Inherited{SocketAddress: addressOf(socket), File: file})
	}
	return shared, nil
}

// Listening returns the addresses of the sockets that have a listener.
func (s *Sockets) Listening() (at []SocketAddress) {
	s.binding.Lock()
	defer s.binding.Unlock()
	for _, socket := range s.all() {
		if udp, ok := socket.(*udpSocket); ok {
			if _, listening := udp.listeners.latest(); !listening {
				continue
			}
		}
		at = append(at, addressOf(socket))
	}
	return at
}

// Suspend stops all sockets from taking clients and datagrams, which wait in the
// kernel, and waits until those that are being taken have been passed on. If ctx ends
// before, it resumes the sockets and returns an error.
func (s *Sockets) Suspend(ctx context.Context) error {
	s.binding.Lock()
	defer s.binding.Unlock()
	s.suspended = s.all()
	for _, socket := range s.suspended {
		socket.suspend()
	}
	for _, socket := range s.suspended {
		for !socket.stopped() {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				s.resume()
				return fmt.Errorf("clients of %s are still being accepted: %w", addressOf(socket), context.Cause(ctx))
			}
		}
	}
	return nil
}

// Resume ends Suspend.
func (s *Sockets) Resume() {
	s.binding.Lock()
	defer s.binding.Unlock()
	s.resume()
}

// resume is Resume. The caller holds s.binding.
func (s *Sockets) resume() {
	for _, socket := range s.suspended {
		if udp, ok := socket.(*udpSocket); ok {
			udp.mu.Lock()
			udp.successor = nil
			udp.mu.Unlock()
		}
		socket.start()
	}
	s.suspended, s.successor = nil, nil
}

// HandOver returns the keys of the UDP clients of suspended sockets. From now on, link
// brings their datagrams, and their ends are reported on it. The caller starts link
// with s as its handler.
func (s *Sockets) HandOver(link *takeover.Link) (keys []takeover.Key) {
	s.binding.Lock()
	defer s.binding.Unlock()
	s.successor = link
	for _, socket := range s.suspended {
		udp, ok := socket.(*udpSocket)
		if !ok {
			continue
		}
		udp.mu.Lock()
		udp.successor = link
		for k := range udp.clients {
			keys = append(keys, udp.keyFor(k))
		}
		udp.mu.Unlock()
	}
	return keys
}

// Finish ends the link to the process that has taken over from this one, whose clients
// have all ended. Their last datagrams go to the other process. It waits at most for
// timeout.
func (s *Sockets) Finish(timeout time.Duration) {
	s.binding.Lock()
	link := s.successor
	s.binding.Unlock()
	if link != nil {
		link.Finish(timeout)
	}
}

// Elsewhere returns the UDP clients of older processes, by the link to each.
func (s *Sockets) Elsewhere() map[*takeover.Link][]takeover.Key {
	s.binding.Lock()
	defer s.binding.Unlock()
	found := make(map[*takeover.Link][]takeover.Key)
	for _, link := range s.older {
		found[link] = nil
	}
	for _, socket := range s.opened("udp") {
		udp := socket.(*udpSocket)
		udp.mu.Lock()
		for k, link := range udp.elsewhere {
			found[link] = append(found[link], udp.keyFor(k))
		}
		udp.mu.Unlock()
	}
	return found
}

// HandedOver ends the use of the sockets but for answers, because another process has
// taken them. It forgets the clients of older processes, whose datagrams that process
// forwards, and closes the links to them, which are stopped.
func (s *Sockets) HandedOver() {
	s.binding.Lock()
	older := s.older
	s.older = nil
	s.binding.Unlock()
	for _, link := range older {
		s.forget(link)
		link.Close()
	}
	for _, udp := range s.openUDP() {
		if udp.detached.is() {
			continue // its Watcher is stopped
		}
		if udp.sender.leavePoller() != nil {
			continue // it was closed, or is woken for nothing
		}
		_ = udp.conn.Close()
		select {
		case <-udp.closed: // meanwhile
			udp.sender.close()
		default:
		}
	}
}

// forget removes the clients of an older process, and returns their number.
func (s *Sockets) forget(link *takeover.Link) (n int) {
	for _, udp := range s.openUDP() {
		udp.mu.Lock()
		var gone []key
		for k, of := range udp.elsewhere {
			if of == link {
				gone = append(gone, k)
			}
		}
		for _, k := range gone {
			delete(udp.elsewhere, k)
		}
		udp.mu.Unlock()
		for range gone {
			udp.leave()
		}
		n += len(gone)
	}
	return n
}

// all returns all open sockets. The caller holds s.binding.
func (s *Sockets) all() []boundSocket { return slices.Concat(s.opened("tcp"), s.opened("udp")) }

func (s *Sockets) openUDP() (sockets []*udpSocket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, socket := range s.udp {
		sockets = append(sockets, socket)
	}
	return sockets
}

func addressOf(socket boundSocket) SocketAddress {
	return SocketAddress{socket.network(), socket.address()}
}

// duplicateFile returns another descriptor of a socket, as a file.
func duplicateFile(socket boundSocket) (file *os.File, err error) {
	failed := socket.control(func(fd uintptr) { file, err = netio.DuplicateFile(fd) })
	if failed != nil {
		return nil, failed
	}
	return file, err
}

// keyFor returns the key of a client for other processes.
func (u *udpSocket) keyFor(k key) takeover.Key {
	return takeover.Key{Socket: u.at, Client: k.client, Local: k.local}
}
