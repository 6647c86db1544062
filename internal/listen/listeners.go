package listen

import (
	"fmt"
	"net"
	"slices"
	"sync"

	"go.uber.org/zap"
)

// Options configures a listener.
type Options struct {
	// Owner identifies the config. A config may listen on an address only once.
	Owner any
	// Log receives the first failure and the recovery of the socket, while this
	// listener is the latest one.
	Log *zap.Logger
	// TakeTCP, if set, receives each client on the accept goroutine instead of
	// through Accept. It must not block and owns the connection.
	TakeTCP func(net.Conn)
	// TakeUDP, if set, receives each new client on the reading goroutine instead of
	// through Accept, and returns the sink for its datagrams (see [Conn.Take]). It
	// must not block. At most maxTakenPerBatch clients of one batch of datagrams
	// are taken; the others go through Accept.
	TakeUDP func(*Conn) (sink func(datagrams [][]byte))
}

// listener is one config's listener on a socket.
type listener interface {
	comparable
	options() Options
}

// listeners holds the open listeners on one socket, the latest last.
type listeners[L listener] struct {
	mu   sync.Mutex
	open []L
	last *zap.Logger // of the latest listener, also after it was closed
}

// add adds a listener. It rejects a second one of the same owner.
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

// latest returns the listener that gets new clients; ok is false if none is open.
func (l *listeners[L]) latest() (one L, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) == 0 {
		return one, false
	}
	return l.open[len(l.open)-1], true
}

// log returns the logger of the latest listener. A logger must not be used after
// its listener was closed, because that of a rejected config may be closed too.
// The exception is the last listener of all.
func (l *listeners[L]) log() *zap.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
