package listen

import (
	"fmt"
	"net"
	"slices"
	"sync"

	"go.uber.org/zap"
)

// Options say how a listener is opened.
type Options struct {
	// Owner tells configs apart: one may listen on an address once.
	Owner any
	// Log gets a line for each episode of trouble with the socket, while the
	// listener is its latest one.
	Log *zap.Logger
	// TakeTCP is given clients past Accept, on the socket's own goroutines: for
	// those who know where whoever accepts would bring each of them. It must not
	// wait, and closes what it is given. nil: all clients are accepted.
	TakeTCP func(net.Conn)
	// TakeUDP is the same for UDP: it says where a client's datagrams go, as
	// [Conn.Take] is told, unless so many are new at once that they have to
	// queue for Accept. nil: all clients are accepted.
	TakeUDP func(*Conn) (sink func(datagrams [][]byte))
}

// share is a config's listener on a socket.
type share interface {
	comparable
	options() Options
}

// listeners are the listeners on one socket, the latest last.
type listeners[L share] struct {
	mu   sync.Mutex
	open []L
	last *zap.Logger // of the latest listener there is or was
}

// add refuses a second listener of one owner.
func (l *listeners[L]) add(one L, at string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	owner := one.options().Owner
	for _, other := range l.open {
		if owner != nil && other.options().Owner == owner {
			return fmt.Errorf("%s is listed more than once in this config, perhaps by two layer4 servers: list it in one", at)
		}
	}
	l.open = append(l.open, one)
	l.last = one.options().Log
	return nil
}

func (l *listeners[L]) remove(one L) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = slices.DeleteFunc(l.open, func(other L) bool { return other == one })
	if n := len(l.open); n > 0 {
		l.last = l.open[n-1].options().Log
	}
}

// latest is who gets the next client; ok is false when there is nobody.
func (l *listeners[L]) latest() (one L, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) == 0 {
		return one, false
	}
	return l.open[len(l.open)-1], true
}

// log is the latest config's: the logger of one that was rejected may be
// closed with it.
func (l *listeners[L]) log() *zap.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
