package listen

import (
	"errors"
	"net"
	"sync"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// detached is a UDP socket that Sockets.Watcher watches. The zero detached is none.
type detached struct {
	socket *netio.Unpolled // set once, before the socket is used; as is receive
	batch  *batch          // of the current call of readable, for receive
	err    error           // the result of receive
	// receive reads a batch. It is bound once so that a read allocates nothing.
	receive func(fd uintptr)

	resuming sync.Mutex // held by resume; guards pauses
	pauses   backoff

	mu      sync.Mutex // guards the fields below
	stop    func()     // stops the Watcher; nil: the socket is not watched
	wanted  bool       // the socket is to be watched: it is neither suspended nor closed
	reading bool       // readable is running
}

func (d *detached) is() bool { return d.socket != nil }

func (d *detached) control(f func(fd uintptr)) error { return d.socket.Control(f) }

// close stops the Watcher and closes the socket.
func (d *detached) close() {
	d.suspend()
	_ = d.socket.Close()
}

// suspend stops the Watcher, until watch is called.
func (d *detached) suspend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = false
	d.stopLocked()
}

// stopLocked stops the Watcher. readable may still be running.
func (d *detached) stopLocked() {
	if d.stop != nil {
		d.stop()
		d.stop = nil
	}
}

// stopped reports whether the socket is suspended and nothing reads it any more.
func (d *detached) stopped() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.wanted && !d.reading
}

// begin reports whether readable may read the socket, and records that it does. The
// Watcher may call readable once more after it was stopped.
func (d *detached) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = d.wanted
	return d.reading
}

// end records that readable has ended. With a failure, the Watcher is stopped.
func (d *detached) end(failed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = false
	if failed {
		d.stopLocked()
	}
}

// detach prepares the socket for the Watcher, if there is one. Otherwise, or if this
// fails, the socket remains as it is. It must be called before the socket is used.
func (u *udpSocket) detach() {
	if u.sockets.Watcher == nil {
		return
	}
	socket, err := netio.DetachUDP(u.conn)
	if err != nil {
		return // no descriptor is free: the socket keeps the one that it has
	}
	d := &u.detached
	d.socket, d.pauses = socket, u.backoff()
	d.receive = func(fd uintptr) { d.batch.datagrams, d.err = d.batch.receiver.ReceiveNonblock(int(fd)) }
	u.sender.use(socket)
}

// watch starts the Watcher, now or after pauses.
func (u *udpSocket) watch() {
	d := &u.detached
	d.mu.Lock()
	d.wanted = true
	d.mu.Unlock()
	if err := u.tryWatch(); err != nil {
		go u.resume(err) // returns when the socket is watched, suspended or closed
	}
}

// tryWatch starts the Watcher. It does nothing if the socket is watched already,
// suspended or closed.
func (u *udpSocket) tryWatch() error {
	d := &u.detached
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.wanted || d.stop != nil {
		return nil
	}
	var err error
	_ = d.control(func(fd uintptr) { d.stop, err = u.sockets.Watcher.Watch(int(fd), u.readable) })
	return err
}

// resume starts the Watcher after a pause, and again if that fails.
func (u *udpSocket) resume(err error) {
	d := &u.detached
	d.resuming.Lock()
	defer d.resuming.Unlock()
	for err != nil && d.pauses.failure(err) {
		err = u.tryWatch()
	}
}

// readable delivers a batch of datagrams. The Watcher calls it.
func (u *udpSocket) readable() {
	d := &u.detached
	if !d.begin() {
		return
	}
	err := u.readBatch()
	d.end(err != nil)
	if err != nil {
		go u.resume(err) // returns when the socket is watched, suspended or closed
	}
}

// readBatch reads and delivers a batch of datagrams, if there are any.
func (u *udpSocket) readBatch() error {
	d := &u.detached
	b, err := u.sockets.batches.take()
	if err != nil {
		return err
	}
	defer u.sockets.batches.put(b)
	d.batch = b
	if err = d.control(d.receive); err == nil {
		err = d.err
	}
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	if err == nil {
		d.success()
		b.deliver(u)
	}
	return err
}

// success is called after a read that succeeded.
func (d *detached) success() {
	if d.resuming.TryLock() {
		d.pauses.success()
		d.resuming.Unlock()
	}
}
