package stream

import (
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// loopMover moves bytes between two plain sockets on an event loop. It is passive:
// its loop, the goroutine that hands it over, the wheel, timers and Cut call it,
// each under mu.
type loopMover struct {
	rules Rules // set once, as are loop and wheel
	loop  *loop
	wheel *Wheel
	idler

	mu         sync.Mutex // guards the fields below
	ends       ends
	sockets    [2]socket     // by side
	flows      [2]transfer   // by source
	connecting *time.Timer   // fires when a connection to the backend is slow; nil: none is under way
	acks       *ackWait      // nil: no reset waits for an acknowledgement
	keepAlive  time.Duration // still to be set on the backend's socket; 0: none
	ackDelayed bool          // the kernel delays the acknowledgement of the backend's handshake
	nagle      nagle         // of the backend's socket
	slot       netio.Slot    // in the loop's poller
}

// socket is one of the two sockets of a relay. Events are edge-triggered: what
// they reported holds until a system call returns otherwise.
type socket struct {
	fd       int         // -1: none yet
	token    netio.Token // 0: not watched
	readable bool        // there may be something to read
	writable bool        // there may be room to write
	finished bool        // the peer sent a FIN, or is gone: it is read to the end of its stream
	urgent   bool        // urgent data was received: a read may stop before it
	failed   bool        // an error was reported
	closed   bool        // both directions are shut down
	watchOut bool        // the poller reports room, too
}

// events returns what the poller watches for. Room is watched for only after
// there was none: at first there is always room.
func (s *socket) events() netio.Events {
	events := netio.Readable | netio.Urgent | netio.PeerFinished | netio.EdgeTriggered
	if s.watchOut {
		events |= netio.Writable
	}
	return events
}

func newLoopMover(l *loop, fd int, client Client, rules Rules, wheel *Wheel) *loopMover {
	m := &loopMover{rules: rules, loop: l, wheel: wheel, slot: netio.NoSlot}
	m.idler = newIdler(m)
	m.sockets[ClientSide] = socket{fd: fd, readable: true, writable: true}
	m.sockets[BackendSide] = socket{fd: -1}
	if client.Finished {
		m.ends.startFinished()
	}
	early := &m.flows[ClientSide]
	early.skip = client.HeaderLen
	if len(client.Early) > 0 {
		early.held = client.Early
		m.ends.block(ClientSide)
	}
	return m
}

// ClientReset implements [Mover].
func (m *loopMover) ClientReset() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends.over || netio.PeerStateOfFD(m.sockets[ClientSide].fd).Reset()
}

// Carry implements [Mover].
func (m *loopMover) Carry(backend net.Conn, totals Totals) {
	defer m.guard()
	fd, err := netio.Detach(backend.(*net.TCPConn))
	if err != nil {
		netio.Reset(backend)
	}
	w := &workspace{buf: netio.GetBuffer()}
	defer w.buf.Free()
	m.mu.Lock()
	defer m.unlock()
	switch {
	case m.ends.over:
		if err == nil {
			netio.ResetDescriptor(fd)
		}
	case err != nil:
		m.exhaustedLocked(err)
	default:
		m.sockets[BackendSide] = socket{fd: fd}
		m.carryLocked(totals, w)
	}
}

// carryLocked starts to move bytes, first those that are there already: most
// clients have sent something by now.
func (m *loopMover) carryLocked(totals Totals, w *workspace) {
	m.sockets[BackendSide].writable = true
	m.flows[ClientSide].total, m.flows[BackendSide].total = totals.Up, totals.Down
	if m.defersKeepAliveLocked() {
		m.wheel.addDeferring(&m.idler)
	} else {
		m.setBackendKeepAliveLocked()
		m.wheel.add(&m.idler)
	}
	m.moveLocked(w)
	if m.ends.over {
		return
	}
	if err := m.watchLocked(ClientSide, BackendSide); err != nil {
		m.exhaustedLocked(err)
		return
	}
	m.continueLocked()
}

// setBackendKeepAliveLocked sets the keep-alive that is still to be set.
func (m *loopMover) setBackendKeepAliveLocked() {
	if m.keepAlive > 0 {
		netio.SetKeepAlive(m.sockets[BackendSide].fd, m.keepAlive)
	}
	m.keepAlive = 0
}

// nagle is what the backend's socket does with a small segment while an earlier small one is
// not acknowledged: Nagle's algorithm, see TCP_NODELAY of tcp(7).
//
// The first write of a connection is sent at once anyway, and many connections have no other.
// So TCP_NODELAY is set before the second one.
type nagle uint8

const (
	nagleOff  nagle = iota // sends it at once
	nagleIdle              // delays it; nothing was written yet
	nagleUsed              // delays it; there was one write
)

// beforeWriteLocked is called before each write to a side. Splicing needs no call: it begins
// after several writes.
func (m *loopMover) beforeWriteLocked(side Side) {
	switch {
	case m.nagle == nagleOff || side == ClientSide:
	case m.nagle == nagleIdle:
		m.nagle = nagleUsed
	default:
		netio.SetNoDelay(m.sockets[BackendSide].fd)
		m.nagle = nagleOff
	}
}

// defersKeepAliveLocked reports whether the keep-alive can wait until the wheel calls
// doDeferred. It takes four system calls, 1.7 % of the CPU time of a connection with one
// message and its answer.
func (m *loopMover) defersKeepAliveLocked() bool {
	const (
		leastTick  = 100 * time.Millisecond // below it, doDeferred would be called for most connections
		leastTicks = 8                      // below it, the first probe could be late
	)
	return m.wheel.tick >= leastTick && m.keepAlive >= leastTicks*m.wheel.tick
}

// doDeferred implements [wheelOwner].
func (m *loopMover) doDeferred() {
	m.mu.Lock()
	defer m.unlock()
	if !m.ends.over {
		m.setBackendKeepAliveLocked()
	}
}

// watchLocked makes the loop report events of sockets that it does not watch yet.
func (m *loopMover) watchLocked(sides ...Side) (err error) {
	if m.slot == netio.NoSlot {
		if m.slot, err = m.loop.poller.Join(m); err != nil {
			return err
		}
	}
	for _, side := range sides {
		s := &m.sockets[side]
		if s.token != 0 {
			continue
		}
		if s.token, err = m.loop.poller.Watch(m.slot, uint8(side), s.fd, s.events()); err != nil {
			return err
		}
	}
	return nil
}

// handle implements [member]. It ignores events of a socket that has left the loop
// since.
func (m *loopMover) handle(token netio.Token, events netio.Events, w *workspace) {
	m.mu.Lock()
	defer m.unlock()
	side := Side(token.Which())
	s := &m.sockets[side]
	if m.ends.over || s.token != token {
		return
	}
	if m.loop.inject != nil {
		m.loop.inject(m)
	}
	if events&(netio.Readable|netio.PeerFinished) != 0 {
		s.readable = true
		s.finished = s.finished || events&netio.PeerFinished != 0
		s.urgent = s.urgent || events&netio.Urgent != 0
	}
	if m.connecting != nil {
		m.connectEventLocked(events, w)
		return
	}
	if events&netio.Writable != 0 {
		s.writable = true
	}
	if events&(netio.Failed|netio.HungUp) != 0 {
		s.readable, s.writable, s.finished = true, true, true
		s.failed = s.failed || events&netio.Failed != 0
		s.closed = s.closed || events&netio.HungUp != 0
		if s.failed && m.ends.flows[side].sourceEnded() {
			m.doLocked(side.other(), m.ends.resetAfterEnd(side))
		}
	}
	if !m.ends.over {
		m.moveLocked(w)
		m.continueLocked()
	}
}

// continueLocked is called after a turn. If the relay has more to move, it makes the
// kernel report the relay again, by setting the events of a socket once more. Relays that
// are ready already are reported first.
func (m *loopMover) continueLocked() {
	for _, source := range []Side{ClientSide, BackendSide} {
		s := &m.sockets[source]
		switch flow := m.ends.flows[source]; {
		case m.ends.over || !m.canMoveLocked(source):
			continue
		case flow.holds():
			s = &m.sockets[source.other()]
			s.watchOut = true
		}
		if m.loop.poller.Change(s.token, s.fd, s.events()) != nil {
			panic("stream: a watched descriptor cannot be changed")
		}
	}
}

// expireIfIdle is called by the wheel.
func (m *loopMover) expireIfIdle() {
	m.mu.Lock()
	defer m.unlock()
	switch {
	case m.ends.over:
	case !m.wheel.isIdle(&m.idler):
		m.wheel.putBack(&m.idler)
	default:
		m.doLocked(ClientSide, m.ends.expire(m.owedLocked()))
	}
}

// owedLocked returns, by side, whether bytes for it are left.
func (m *loopMover) owedLocked() (owed [2]bool) {
	for _, sink := range []Side{ClientSide, BackendSide} {
		source := sink.other()
		owed[sink] = len(m.flows[source].held) > 0 ||
			some(netio.UnreadFD(m.sockets[source].fd)) || some(netio.UnacknowledgedFD(m.sockets[sink].fd))
	}
	return owed
}

// Cut implements [Mover].
func (m *loopMover) Cut(reason Reason) {
	m.mu.Lock()
	defer m.unlock()
	m.doLocked(ClientSide, m.ends.cut(reason))
}

// exhaustedLocked ends a relay that cannot be carried for lack of a descriptor or
// memory.
func (m *loopMover) exhaustedLocked(err error) {
	if m.ends.cut(Exhausted)&closeBoth != 0 {
		m.closeLocked(err)
	}
}

// unlock is deferred after each Lock of what runs for the relay: a panic ends this relay
// and no other. It does so before it releases the lock, for which another worker may wait
// with an event of the relay: what that would move could follow a gap.
func (m *loopMover) unlock() {
	defer m.mu.Unlock()
	if value := recover(); value != nil {
		m.panickedLocked(value)
	}
}

// guard is deferred by what runs for the relay before it locks: it does what unlock
// does.
func (m *loopMover) guard() {
	if value := recover(); value != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.panickedLocked(value)
	}
}

func (m *loopMover) panickedLocked(value any) {
	m.rules.Panicked(value)
	m.doLocked(ClientSide, m.ends.cut(Panicked))
}

// doLocked does what an input concerning a source, or the loss of its sink, has
// led to.
func (m *loopMover) doLocked(source Side, out output) {
	if out&dropHeld != 0 {
		m.dropHeldLocked()
	}
	switch {
	case out&closeBoth != 0:
		m.closeLocked(nil) // which sends the last FIN, too: both streams were read to their ends
		return
	case out&sendFinish != 0:
		m.finishLocked(source.other())
	}
	if out&awaitAck != 0 {
		m.awaitAckLocked(source)
	}
}

// dropHeldLocked drops the bytes of directions that hold none any more: their sink
// was lost. Which direction that is depends on the input.
func (m *loopMover) dropHeldLocked() {
	for source := range m.flows {
		if !m.ends.flows[source].holds() {
			m.flows[source].drop()
		}
	}
}

// finishLocked sends a FIN to a side.
func (m *loopMover) finishLocked(side Side) {
	if side == BackendSide {
		m.sendAckLocked() // before: a SYN proxy takes no FIN for it, and the kernel sends none afterwards
	}
	if errno := netio.FinishWriting(m.sockets[side].fd); errno != 0 {
		m.writeFailedLocked(side, errno)
	}
}

// writeFailedLocked stops the flow to a side that takes no more bytes, and has
// the side read to the end of its stream.
func (m *loopMover) writeFailedLocked(side Side, errno syscall.Errno) {
	m.sockets[side].readable, m.sockets[side].finished = true, true
	m.doLocked(side.other(), m.ends.writeFailed(side, isReset(errno)))
}

// closeLocked closes both sockets and reports the end. It is called once, after
// the input that has ended the relay.
func (m *loopMover) closeLocked(err error) {
	defer func() { // also if what is above panics
		m.rules.Ended(End{Reason: m.ends.reason, Err: err, BytesUp: m.flows[ClientSide].sum, BytesDown: m.flows[BackendSide].sum})
	}()
	m.loop.poller.Leave(m.slot)
	m.slot = netio.NoSlot
	m.wheel.remove(&m.idler)
	if m.connecting != nil {
		m.connecting.Stop()
	}
	if m.acks != nil {
		m.acks.timer.Stop()
	}
	for side := range m.sockets {
		m.flows[side].drop()
		fd := m.sockets[side].fd
		if fd < 0 {
			continue
		}
		switch m.ends.closing(Side(side)) {
		case closeWithRST:
			netio.ResetDescriptor(fd)
		case closeWithFIN:
			// A close alone would send a RST instead of a FIN if received bytes are unread.
			netio.FinishWriting(fd)
			netio.CloseDescriptor(fd)
		case closeFinished:
			netio.CloseDescriptor(fd)
		}
	}
}

// ackWait is the wait for a side to acknowledge the bytes before a reset.
type ackWait struct {
	source   Side // that was reset
	deadline time.Time
	pause    time.Duration
	timer    *time.Timer
}

// awaitAckLocked sends a RST to the sink of a source once the sink has
// acknowledged all bytes, at most after the idle timeout.
func (m *loopMover) awaitAckLocked(source Side) {
	if m.sinkAcknowledgedLocked(source) {
		m.doLocked(source, m.ends.acked(source))
		return
	}
	m.acks = &ackWait{source: source, deadline: time.Now().Add(m.wheel.timeout), pause: firstAckPause}
	m.acks.timer = time.AfterFunc(m.acks.pause, m.checkAck)
}

func (m *loopMover) sinkAcknowledgedLocked(source Side) bool {
	n, known := netio.UnacknowledgedFD(m.sockets[source.other()].fd)
	return !known || n == 0
}

// checkAck is called by the timer.
func (m *loopMover) checkAck() {
	m.mu.Lock()
	defer m.unlock()
	w := m.acks
	switch {
	case m.ends.over:
	case m.sinkAcknowledgedLocked(w.source) || !time.Now().Before(w.deadline):
		m.doLocked(w.source, m.ends.acked(w.source))
	default:
		w.pause = min(2*w.pause, maxAckPause)
		w.timer.Reset(w.pause)
	}
}
