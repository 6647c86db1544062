package takeover

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// maxQueued bounds the bytes of datagrams that wait in a [Link]. It is the size that
// listening sockets request for their buffers, because a link extends them.
const maxQueued = 4 << 20

// Handler receives what arrives on a [Link], on one goroutine.
type Handler interface {
	// Datagrams receives datagrams of one client, in order. They are valid until it
	// returns.
	Datagrams(l *Link, k Key, datagrams [][]byte)
	// Ended reports that a client has ended in the old process.
	Ended(l *Link, k Key)
	// Closed reports that the other process has ended. It is the last call.
	Closed(l *Link)
}

// Link carries the datagrams of the clients of an old process from the process that
// reads the listening sockets, and back the keys of the clients that have ended and
// the datagrams that came too late for them. Records arrive in the order in which
// they were sent.
//
// A link is stopped or running. Only a stopped one can be passed to another process.
type Link struct {
	conn *net.UnixConn

	running sync.WaitGroup // the goroutines of a running link

	mu       sync.Mutex // guards the fields below
	more     sync.Cond  // messages is not empty, or stopping
	messages [][]byte   // that wait to be written, each a sequence of records
	queued   int        // bytes in messages
	stopping bool
	broken   bool          // the other end is closed
	finished chan struct{} // closed when the other process sends no more; nil: Finish was not called
}

// NewLink returns a stopped link on a socket of [netio.MessagePair].
func NewLink(conn *net.UnixConn) *Link {
	l := &Link{conn: conn}
	l.more.L = &l.mu
	return l
}

// Start runs the link until Stop, or until the other process has ended.
func (l *Link) Start(h Handler) {
	l.mu.Lock()
	l.stopping = false
	l.mu.Unlock()
	_ = l.conn.SetDeadline(time.Time{})
	l.running.Go(func() { l.read(h) }) // returns after Stop, or when the other end is closed
	l.running.Go(l.write)              // the same
}

// Stop writes what waits, at most for timeout, and stops the link. What has arrived
// and was not handled stays in the socket. If not all could be written, it returns an
// error, and the link can only be started again or closed. It must not be called by
// the Handler.
func (l *Link) Stop(timeout time.Duration) error {
	l.mu.Lock()
	l.stopping = true
	l.mu.Unlock()
	_ = l.conn.SetReadDeadline(time.Unix(1, 0))
	_ = l.conn.SetWriteDeadline(time.Now().Add(timeout))
	l.more.Broadcast()
	l.running.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.messages) > 0 && !l.broken {
		return errors.New("another old process does not read the datagrams of its clients")
	}
	return nil
}

// Finish ends the link of an old process whose clients have all ended. Datagrams that the
// new process has sent before it knew are still handled. It waits at most for timeout.
// It must not be called by the Handler.
func (l *Link) Finish(timeout time.Duration) {
	finished := make(chan struct{})
	l.mu.Lock()
	if !l.broken {
		l.finished = finished
		l.addLocked(kindLast, Key{}, nil)
	}
	broken := l.broken
	l.mu.Unlock()
	if !broken {
		select {
		case <-finished:
		case <-time.After(timeout):
		}
	}
	_ = l.Stop(timeout)
	l.Close()
}

// last handles the record kindLast.
func (l *Link) last() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.finished == nil { // the other process has called Finish
		l.addLocked(kindLast, Key{}, nil)
		return
	}
	l.finishedLocked()
}

func (l *Link) finishedLocked() {
	if l.finished != nil {
		close(l.finished)
		l.finished = nil
	}
}

// File returns the socket of a stopped link, for another process. The caller closes
// it.
func (l *Link) File() (file *os.File, err error) {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	failed := raw.Control(func(fd uintptr) { file, err = netio.DuplicateFile(fd) })
	return file, errors.Join(failed, err)
}

// Close closes a link. If it is running, that ends it like the end of the other
// process.
func (l *Link) Close() {
	_ = l.conn.Close()
	l.more.Broadcast()
}

// Send queues datagrams of a client. It does not block. It returns how many were
// dropped because too many wait.
func (l *Link) Send(k Key, datagrams ...[]byte) (dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, datagram := range datagrams {
		if l.broken || l.queued+len(datagram) > maxQueued {
			dropped++
			continue
		}
		l.addLocked(kindDatagram, k, datagram)
	}
	return dropped
}

// End queues the report that a client has ended. It does not block.
func (l *Link) End(k Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.broken {
		l.addLocked(kindEnded, k, nil)
	}
}

// addLocked adds a record to the last message, or to a new one.
func (l *Link) addLocked(kind byte, k Key, datagram []byte) {
	last := len(l.messages) - 1
	if last < 0 || len(l.messages[last])+len(datagram)+maxRecord-0xffff > maxMessage {
		l.messages = append(l.messages, make([]byte, 0, min(maxMessage, maxRecord-0xffff+len(datagram))))
		last++
	}
	before := len(l.messages[last])
	l.messages[last] = appendRecord(l.messages[last], kind, k, datagram)
	l.queued += len(l.messages[last]) - before
	l.more.Signal()
}

// next waits for a message. ok is false once the link stops and all are written.
func (l *Link) next() (message []byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.messages) == 0 {
		if l.stopping || l.broken {
			return nil, false
		}
		l.more.Wait()
	}
	message = l.messages[0]
	l.messages[0] = nil
	l.messages = l.messages[1:]
	l.queued -= len(message)
	return message, true
}

func (l *Link) write() {
	for {
		message, ok := l.next()
		if !ok {
			return
		}
		if err := netio.SendMessage(l.conn, message); err != nil {
			l.mu.Lock()
			l.messages = append([][]byte{message}, l.messages...)
			l.queued += len(message)
			l.mu.Unlock()
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				l.fail()
			}
			return
		}
	}
}

// fail makes a broken link drop what is sent on it.
func (l *Link) fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken, l.messages, l.queued = true, nil, 0
	l.finishedLocked()
	l.more.Broadcast()
}

func (l *Link) read(h Handler) {
	buf := make([]byte, max(maxRecord, maxMessage))
	var datagrams [][]byte
	for {
		n, files, err := netio.ReceiveMessage(l.conn, buf)
		for _, file := range files {
			_ = file.Close()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return // Stop
		}
		if err == nil {
			datagrams, err = l.handle(h, buf[:n], datagrams[:0])
		}
		if err != nil {
			l.fail()
			h.Closed(l)
			return
		}
	}
}

// handle passes the records of a message to h. Datagrams of one client in a row are
// passed together. datagrams is memory for them.
func (l *Link) handle(h Handler, message []byte, datagrams [][]byte) ([][]byte, error) {
	var group Key // of datagrams
	pass := func() {
		if len(datagrams) > 0 {
			h.Datagrams(l, group, datagrams)
			datagrams = datagrams[:0]
		}
	}
	for len(message) > 0 {
		kind, k, datagram, rest, err := parseRecord(message)
		if err != nil {
			return datagrams, err
		}
		message = rest
		switch kind {
		case kindEnded:
			pass()
			h.Ended(l, k)
			continue
		case kindLast:
			pass()
			l.last()
			continue
		}
		if k != group {
			pass()
			group = k
		}
		datagrams = append(datagrams, datagram)
	}
	pass()
	return datagrams, nil
}
