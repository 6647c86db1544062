package listen

import (
	"errors"
	"net"
	"sync"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// detached is a UDP socket that Sockets.UDPWatcher watches. The zero detached is none.
//
//	          busyBatches full batches in a row
//	Watch    ───────────────────────────────────▶ WatchBusy
//	         ◀───────────────────────────────────
//	          calmBatches small batches in a row
//
// Only one call of readable reads the socket at a time, so the datagrams of a client stay
// in order, also while the socket changes from one event loop to another.
type detached struct {
	socket *netio.Unpolled // set once, before the socket is used; as is receive
	// receive reads a batch. It is bound once so that a read allocates nothing.
	receive func(fd uintptr)

	// Used only by the call of readable that has begun.
	batch *batch // for receive
	err   error  // the result of receive
	reads uint8  // how many times it has read
	flow  uint8  // how many times more it reads a batch
	full  int    // full batches in a row
	small int    // small batches in a row

	resuming sync.Mutex // held during a pause; guards pauses
	pauses   backoff

	watching
	busy bool // the socket is to be watched by WatchBusy; changed only by readable, under watching.mu
}

// Reading one datagram costs less than reading a batch of one. So batches are read after
// one that held more than one datagram, and else every few times.
const (
	batchReads    = 16
	readsPerBatch = 8
)

// A socket becomes busy when the goroutine that reads it has no time for other sockets,
// such as those that receive the answers. While it is not busy, one goroutine for both
// directions costs 10 to 18 % less CPU time than two, which have to wake each other.
const (
	busyBatches = 8
	calmBatches = 1000
	smallBatch  = netio.Batch / 4
)

func (d *detached) is() bool { return d.socket != nil }

func (d *detached) control(f func(fd uintptr)) error { return d.socket.Control(f) }

// close stops the Watcher and closes the socket.
func (d *detached) close() {
	d.suspend()
	_ = d.socket.Close()
}

// detach prepares the socket for the Watcher, if there is one. Otherwise, or if this
// fails, the socket remains as it is. It must be called before the socket is used.
func (u *udpSocket) detach() {
	if u.sockets.UDPWatcher == nil {
		return
	}
	socket, err := netio.DetachUDP(u.conn)
	if err != nil {
		return // no descriptor is free: the socket keeps the one that it has
	}
	d := &u.detached
	d.socket, d.pauses = socket, u.backoff()
	d.receive = func(fd uintptr) {
		receive := d.batch.receiver.ReceiveNonblock
		if d.reads++; d.flow == 0 && d.reads%readsPerBatch != 0 && !u.packetInfo {
			receive = d.batch.receiver.ReceiveOneFromNonblock
		}
		d.batch.datagrams, d.err = receive(int(fd))
	}
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
	watch := u.sockets.UDPWatcher.Watch
	if d.busy {
		watch = u.sockets.UDPWatcher.WatchBusy
	}
	_ = d.control(func(fd uintptr) { d.stop, err = watch(int(fd), u.readable) })
	return err
}

// resume starts the Watcher after a pause, and again if that fails.
func (u *udpSocket) resume(err error) {
	for err != nil && u.detached.pauseAfter(err) {
		err = u.tryWatch() // without the lock, so the next read can end the pauses
	}
}

// pauseAfter logs err and pauses, see backoff.failure.
func (d *detached) pauseAfter(err error) bool {
	d.resuming.Lock()
	defer d.resuming.Unlock()
	return d.pauses.failure(err)
}

// readable delivers a batch of datagrams. The Watcher calls it. If it calls it while
// another call is running, which happens only if the socket was suspended and started
// meanwhile, it returns, and the Watcher calls it again.
func (u *udpSocket) readable() {
	d := &u.detached
	if !d.begin(0) {
		return
	}
	n, err := u.readBatch()
	moves := d.countBatch(n)
	d.end(err != nil || moves)
	if moves && err == nil {
		err = u.tryWatch()
	}
	if err != nil {
		go u.resume(err) // returns when the socket is watched, suspended or closed
	}
}

// countBatch counts a batch of n datagrams. It reports whether the socket has become busy
// or is not busy any more, so that it must be watched anew.
func (d *detached) countBatch(n int) (moves bool) {
	if d.full++; n < netio.Batch {
		d.full = 0
	}
	if d.small++; n > smallBatch {
		d.small = 0
	}
	if d.busy {
		moves = d.small >= calmBatches
	} else {
		moves = d.full >= busyBatches
	}
	if n > 1 {
		d.flow = batchReads
	} else if d.flow > 0 {
		d.flow--
	}
	if moves {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.busy, d.full, d.small = !d.busy, 0, 0
	}
	return moves
}

// readBatch reads and delivers a batch of datagrams, if there are any. It returns their
// number.
func (u *udpSocket) readBatch() (n int, err error) {
	d := &u.detached
	b, err := u.sockets.batches.take()
	if err != nil {
		return 0, err
	}
	defer u.sockets.batches.put(b)
	d.batch = b
	if err = d.control(d.receive); err == nil {
		err = d.err
	}
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, net.ErrClosed) {
		return 0, nil
	}
	if err == nil {
		d.success()
		b.deliver(u)
	}
	return len(b.datagrams), err
}

// success is called after a read that succeeded.
func (d *detached) success() {
	if d.resuming.TryLock() {
		d.pauses.success()
		d.resuming.Unlock()
	}
}
