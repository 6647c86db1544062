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
	// TakeTCP, if set, receives each client on a goroutine that accepts clients, instead
	// of through Accept. Several goroutines may call it at once, among them those of
	// Sockets.TCPWatcher. It must not block and owns the connection if it returns true.
	// If it returns false, the next listener gets the client: the latest of those that
	// have not declined it. It may be offered the same client once more then.
	TakeTCP func(net.Conn) (taken bool)
	// TakeUDP, if set, receives each new client on the reading goroutine instead of
	// through Accept, and returns the sink for its datagrams. It must not block. While
	// datagrams arrive faster than they are delivered, some clients go through Accept,
	// see maxTaken. If the sink returns false for a client's first datagrams, the next
	// listener gets the client, as with TakeTCP.
	TakeUDP func(*Conn) Sink
}

// Sink receives datagrams of one client, in order, on the reading goroutine or in
// [Conn.Take]. The slices are valid until it returns. If it returns false, it has
// ended the client with [Conn.End], and the datagrams begin a new one.
type Sink func(datagrams [][]byte) (taken bool)

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

// latest returns the listener that gets a new client, which some listeners may
// have declined; ok is false if there is none.
func (l *listeners[L]) latest(declined ...L) (one L, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range slices.Backward(l.open) {
		if !slices.Contains(declined, one) {
			return one, true
		}
	}
	return one, false
}

// log returns the logger of the latest listener. A logger must not be used after
// its listener was closed, because that of a rejected config may be closed too.
// The exception is the last listener of all.
func (l *listeners[L]) log() *zap.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
