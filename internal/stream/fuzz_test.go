//go:build linux

package stream

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A program is a relay's setup and the steps that its two peers make, as bytes:
// the flags of the setup, how many early bytes there are, and two bytes for each
// step. The first byte of a step is its operation and, in sideBit, its peer. The
// second is its argument.
type program []byte

// Flags of a program's first byte.
const (
	onLoops      = 1 << iota // the loop mover; otherwise goroutines
	smallBuffers             // small socket buffers
	wrapped                  // a wrapped client, on goroutines
	canIdle                  // a short idle timeout
	lateStart                // Carry begins at opStart, or after the last step
	canCut                   // opCut cuts
)

const sideBit = 0x80

// Operations. The argument of opSend and opReadSome selects a number of bytes.
const (
	opSend = iota
	opFinish
	opReset
	opClose
	opStopReading
	opReadSome
	opReadOn
	opAwaitAck  // wait until the relay has acknowledged all bytes of this peer
	opQuiet     // wait until nothing moves
	opPause     // sleep for some microseconds
	opCut       // cut the relay
	opAwaitIdle // wait until the relay is idle and ends
	opStart     // start Carry
	opSendMore  // opSend, so that random programs send more
	opUrgent    // send an urgent byte, once
	opCount
)

const (
	maxSteps   = 32
	fuzzIdle   = 150 * time.Millisecond
	sendPeriod = 10 * time.Millisecond // how long a peer tries to send to a relay without room
	stepPeriod = 30 * time.Millisecond // how long a step waits for a condition that may not come
)

// sizes are the numbers of bytes of opSend and opReadSome, at most.
var sizes = [...]int{1, 100, 1448, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 300_000}

// sizeOf returns the number of bytes that an argument selects.
func sizeOf(arg byte) int {
	size := sizes[arg%8]
	return max(1, size-size/64*int(arg/8))
}

// content fills b with what a side sends from an offset on. Each eight bytes
// differ from all others, and from the other side's.
func content(side Side, offset int, b []byte) {
	var word [8]byte
	for i := 0; i < len(b); {
		at := offset + i
		x := uint64(side+1)<<56 + uint64(at/8)
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(word[:], x^x>>31)
		i += copy(b[i:], word[at%8:])
	}
}

// peer executes the steps of one side.
type peer struct {
	trace
	t    testing.TB
	side Side
	conn *net.TCPConn
	over func() bool // reports whether the relay is over

	sentUrgent bool
	done       chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards the fields below and trace.received and trace.end
	changed *sync.Cond
	allowed int  // bytes that may still be read; -1: all
	reading bool // a Read is under way
}

func newPeer(t testing.TB, side Side, conn *net.TCPConn, over func() bool) *peer {
	p := &peer{t: t, side: side, conn: conn, over: over, allowed: -1, done: make(chan struct{})}
	p.changed = sync.NewCond(&p.mu)
	go p.read() // ends with the stream or when the connection is closed
	return p
}

// read reads what is allowed and checks it, to the end of the stream.
func (p *peer) read() {
	defer close(p.done)
	buf, want := make([]byte, 32<<10), make([]byte, 32<<10)
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for p.allowed == 0 {
			p.changed.Wait()
		}
		limit := len(buf)
		if p.allowed > 0 {
			limit = min(limit, p.allowed)
		}
		p.reading = true
		p.mu.Unlock()
		n, err := p.conn.Read(buf[:limit])
		content(p.side.other(), p.received, want[:n])
		same := string(buf[:n]) == string(want[:n])
		p.mu.Lock()
		if !same {
			p.t.Errorf("side %d received other bytes than were sent, from %d on", p.side, p.received)
		}
		p.reading = false
		p.received += n
		if p.allowed > 0 {
			p.allowed = max(0, p.allowed-n)
		}
		p.changed.Broadcast()
		switch {
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, io.EOF):
			p.end = fin
		case errors.Is(err, syscall.ECONNRESET):
			p.end = rst
		default:
			p.end = err.Error()
		}
		return
	}
}

// allow sets how many bytes the reader may read. With 0 it returns once the reader
// has stopped.
func (p *peer) allow(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed = n
	p.changed.Broadcast()
	if n != 0 {
		_ = p.conn.SetReadDeadline(time.Time{})
		return
	}
	_ = p.conn.SetReadDeadline(time.Now())
	for p.reading {
		p.changed.Wait()
	}
}

// progress returns what changes while bytes move.
func (p *peer) progress() [2]int {
	p.mu.Lock()
	received := p.received
	p.mu.Unlock()
	return [2]int{received, p.unacknowledged()}
}

func (p *peer) unacknowledged() int {
	n, _ := netio.Unacknowledged(p.conn)
	return n
}

// send sends bytes, as many as there is room for.
func (p *peer) send(size int) {
	if p.finished || p.writeFailed {
		return
	}
	bytes := make([]byte, size)
	content(p.side, p.sent, bytes)
	_ = p.conn.SetWriteDeadline(time.Now().Add(sendPeriod))
	n, err := p.conn.Write(bytes)
	p.sent += n
	p.writeFailed = err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// observe records what the relay has acknowledged before it was over.
func (p *peer) observe() {
	if p.departure != stayed {
		return
	}
	acked := p.sent - min(p.unacknowledged(), p.sent)
	if !p.over() {
		p.ackedInTime = max(p.ackedInTime, acked)
	}
}

// isOver reports whether a relay is over.
func isOver(m Mover) bool {
	switch m := m.(type) {
	case *goroutineMover:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.ends.over
	case *loopMover:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.ends.over
	}
	panic("unknown mover")
}

// sendUrgent sends a byte of urgent data, which is not part of the stream. It does
// so once, because a second one may put the first into the stream, and with no
// bytes on the way, because the urgent pointer reaches 64 KiB only.
func (p *peer) sendUrgent() {
	if p.sentUrgent || p.finished || p.writeFailed || p.unacknowledged() > 0 {
		return
	}
	p.sentUrgent = true
	raw, err := p.conn.SyscallConn()
	relaytest.Check(p.t, err)
	relaytest.Check(p.t, raw.Control(func(fd uintptr) {
		if err := syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB|syscall.MSG_NOSIGNAL, nil); err != nil {
			p.writeFailed = !errors.Is(err, syscall.EAGAIN)
		}
	}))
	within(stepPeriod, func() bool { return p.unacknowledged() == 0 })
}

// finish sends a FIN.
func (p *peer) finish() {
	if p.finished {
		return
	}
	p.endedBefore = p.over()
	if p.conn.CloseWrite() != nil {
		p.writeFailed = true
		return
	}
	p.finished = true
}

// depart resets or closes the connection.
func (p *peer) depart(how departure) {
	p.allow(0)
	p.endedBefore = p.endedBefore || p.over()
	unacked := p.unacknowledged()
	p.finAcked = p.finished && unacked == 0
	if p.finished && unacked > 0 {
		unacked-- // the FIN
	}
	p.acked = p.sent - min(unacked, p.sent)
	if how == wasReset {
		_ = p.conn.SetLinger(0)
	} else if n, _ := netio.Unread(p.conn); n > 0 {
		how = closedFull
	}
	_ = p.conn.Close()
	p.departure = how
	p.allow(-1)
	<-p.done
}

// step executes an operation that is a peer's own.
func (p *peer) step(op int, arg byte) {
	if p.departure != stayed {
		return
	}
	switch op {
	case opSend, opSendMore:
		p.send(sizeOf(arg))
	case opFinish:
		p.finish()
	case opReset:
		p.depart(wasReset)
	case opClose:
		p.depart(wasClosed)
	case opStopReading:
		p.allow(0)
	case opReadSome:
		p.allow(sizeOf(arg))
	case opReadOn:
		p.allow(-1)
	case opUrgent:
		p.sendUrgent()
	case opAwaitAck:
		within(stepPeriod, func() bool { return p.unacknowledged() == 0 })
	}
}

// within polls a condition, at most for a period.
func within(period time.Duration, condition func() bool) {
	for deadline := time.Now().Add(period); !condition() && time.Now().Before(deadline); {
		time.Sleep(100 * time.Microsecond)
	}
}

// runProgram runs a program and checks what its peers saw.
func runProgram(t testing.TB, p program) {
	if len(p) < 4 {
		return
	}
	flags, earlyArg, steps := p[0], p[1], p[2:]
	all := sharedKinds()
	k, s := all[0], setup{}
	if flags&onLoops != 0 && len(all) > 1 {
		k = all[1+int(earlyArg)%(len(all)-1)]
	} else if flags&wrapped != 0 {
		s.client = wrappedClient
	}
	if flags&smallBuffers != 0 {
		s.buffers = 8 << 10
	}
	if flags&canIdle != 0 {
		s.idle = fuzzIdle
	}
	early := make([]byte, int(earlyArg)*8)
	content(ClientSide, 0, early)
	s.early = string(early)
	s.delay = true
	r := newRig(t, k, s)
	var once sync.Once
	start := func() { once.Do(r.start) }
	defer start() // for the cleanup of newRig
	over := func() bool { return isOver(r.mover) }
	result := run{idle: flags&canIdle != 0}
	peers := [2]*peer{newPeer(t, ClientSide, r.client, over), newPeer(t, BackendSide, r.backend, over)}
	defer func() { // if the program fails
		for _, p := range peers {
			_ = p.conn.Close()
			p.allow(-1)
			<-p.done
		}
	}()
	peers[ClientSide].sent = len(early)
	if flags&lateStart == 0 {
		start()
	}

	for range maxSteps {
		if len(steps) < 2 {
			break
		}
		side, op, arg := ClientSide, int(steps[0]&^sideBit)%opCount, steps[1]
		if steps[0]&sideBit != 0 {
			side = BackendSide
		}
		steps = steps[2:]
		switch op {
		case opQuiet:
			last, since := [2][2]int{}, time.Now()
			within(stepPeriod, func() bool {
				if now := [2][2]int{peers[0].progress(), peers[1].progress()}; now != last {
					last, since = now, time.Now()
				}
				return time.Since(since) > 3*time.Millisecond
			})
		case opPause:
			time.Sleep(time.Duration(arg) * 4 * time.Microsecond)
		case opCut:
			if flags&canCut != 0 {
				result.cut = true
				r.mover.Cut(Shutdown)
			}
		case opAwaitIdle:
			if result.idle {
				within(2*fuzzIdle, over)
			}
		case opStart:
			start()
		default:
			peers[side].step(op, arg)
		}
		if result.idle {
			peers[ClientSide].observe()
			peers[BackendSide].observe()
		}
	}

	start()
	for _, p := range peers {
		if p.departure == stayed {
			p.allow(-1)
			p.finish()
		}
	}
	limit := time.After(relaytest.Limit / 2)
	for _, side := range peers {
		select {
		case <-side.done:
		case <-limit:
			t.Fatalf("side %d does not come to the end of its stream: %+v, %+v\n%s", side.side, peers[0].progress(), peers[1].progress(), p)
		}
	}
	select {
	case result.end = <-r.ended:
	case <-limit:
		t.Fatalf("the relay does not end: %+v, %+v\n%s", peers[0].trace, peers[1].trace, p)
	}
	for side, p := range peers {
		result.peers[side] = p.trace
	}
	if up, down := r.up.Load(), r.down.Load(); up != uint64(result.end.BytesUp) || down != uint64(result.end.BytesDown) {
		t.Errorf("totals of %d and %d bytes, the end has %d and %d", up, down, result.end.BytesUp, result.end.BytesDown)
	}
	if list := result.violations(); len(list) > 0 {
		t.Errorf("%s\n%+v", strings.Join(list, "\n"), result)
	}
	if t.Failed() {
		t.Logf("program %s:\n%s", hex.EncodeToString(p), p)
	}
}

// sharedKinds returns all movers of this system. Those on loops share an engine.
var sharedKinds = sync.OnceValue(kinds)

// String returns the program for a reader.
func (p program) String() string {
	var b strings.Builder
	for i, name := range []string{"loops", "small buffers", "wrapped", "idle", "late start", "cut"} {
		if p[0]&(1<<i) != 0 {
			b.WriteString(name + ", ")
		}
	}
	fmt.Fprintf(&b, "%d early bytes\n", int(p[1])*8)
	names := [opCount]string{"send", "finish", "reset", "close", "stop reading", "read some", "read on", "await ack", "quiet", "pause", "cut", "await idle", "start", "send", "send urgent"}
	steps := p[2:]
	for i := 0; i+1 < len(steps) && i < 2*maxSteps; i += 2 {
		side := "client"
		if steps[i]&sideBit != 0 {
			side = "backend"
		}
		op := int(steps[i]&^sideBit) % opCount
		fmt.Fprintf(&b, "%s: %s", side, names[op])
		if op == opSend || op == opSendMore || op == opReadSome {
			fmt.Fprintf(&b, " %d", sizeOf(steps[i+1]))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// randomProgram returns a program whose steps are likely to lead somewhere.
func randomProgram(random *rand.Rand) program {
	p := program{byte(random.Uint32()) &^ (canIdle | canCut), 0}
	if random.IntN(4) == 0 {
		p[1] = byte(random.Uint32())
	}
	// Most programs are left alone by the idle timeout and by cuts, and most have
	// a peer that stays.
	stays := random.IntN(3)
	departs := func() (op, side int) {
		op, side = [...]int{opFinish, opReset, opClose}[random.IntN(3)], random.IntN(2)
		if side == stays {
			op = opFinish
		}
		return op, side
	}
	awaitIdle, count := -1, 3+random.IntN(14)
	if random.IntN(5) == 0 {
		p[0] |= canIdle
		awaitIdle = random.IntN(count)
		if random.IntN(2) == 0 { // stalled
			reader, size := byte(random.IntN(2)*sideBit), byte(random.Uint32())|6
			writer := reader ^ sideBit // opSend is 0
			p = append(p, reader^opStopReading, 0, writer, size, writer, size)
		}
	} else if random.IntN(8) == 0 {
		p[0] |= canCut
	}
	for i := range count {
		op, side := 0, random.IntN(2)
		switch n := random.IntN(20); {
		case i == awaitIdle:
			op = opAwaitIdle
		case n < 6:
			op = opSend
		case n < 10:
			op = [...]int{opStopReading, opStopReading, opReadSome, opReadOn}[n-6]
		case n < 13:
			op, side = departs()
		case n < 15:
			op = opAwaitAck
		default:
			op = [...]int{opQuiet, opPause, opStart, opCut, opUrgent}[n-15]
		}
		p = append(p, byte(op+side*sideBit), byte(random.Uint32()))
	}
	return p
}

// Random programs end as the model has it, on each mover.
func TestRandomPrograms(t *testing.T) {
	forEachMover(t, func(t *testing.T, k kind) {
		count := 300
		if testing.Short() {
			count = 30
		}
		const workers = 8 // programs wait most of the time
		var all sync.WaitGroup
		for worker := range workers {
			all.Go(func() {
				for seed := worker; seed < count; seed += workers {
					p := randomProgram(rand.New(rand.NewPCG(uint64(seed), 1)))
					p[0] &^= onLoops
					if k.name == "loops" {
						p[0] |= onLoops
					}
					t.Run(fmt.Sprint(seed), func(t *testing.T) { runProgram(t, p) })
				}
			})
		}
		all.Wait()
	})
}

// FuzzEnds runs programs and checks that they end as the model has it.
func FuzzEnds(f *testing.F) {
	const client, backend = 0, sideBit
	for _, steps := range [][]byte{
		// an answer before a close with unread bytes
		{client + opSend, 7, backend + opStopReading, 0, backend + opSend, 2, backend + opClose, 0, client + opSend, 7},
		// bytes before a reset, to a slow reader
		{client + opStopReading, 0, backend + opSend, 7, backend + opAwaitAck, 0, backend + opReset, 0, client + opReadSome, 3},
		// bytes before a FIN, then a reset because the other side sends more
		{client + opStopReading, 0, backend + opSend, 7, backend + opClose, 0, client + opSend, 1, client + opQuiet, 0, client + opSend, 1},
		// a reset after a FIN
		{client + opSend, 3, client + opFinish, 0, client + opAwaitAck, 0, client + opReset, 0, backend + opSend, 7, backend + opSend, 7},
		// the same, while the last bytes before the FIN are unread
		{client + opStopReading, 0, backend + opSend, 4, backend + opSend, 2, backend + opFinish, 0, backend + opAwaitAck, 0, backend + opReset, 0, client + opSend, 1, client + opQuiet, 0, client + opSend, 1},
		// half-closes
		{client + opSend, 7, client + opFinish, 0, backend + opSend, 7, backend + opQuiet, 0, backend + opSend, 3},
		// bulk around urgent data
		{backend + opSend, 7, backend + opAwaitAck, 0, backend + opUrgent, 0, backend + opSend, 7, backend + opSend, 7, client + opReset, 0},
		// a reset while both sides have no room
		{client + opStopReading, 0, backend + opStopReading, 0, client + opSend, 7, backend + opSend, 7, client + opSend, 7, backend + opSend, 7, client + opReset, 0},
		// a cut of a stalled relay
		{client + opStopReading, 0, backend + opSend, 7, backend + opFinish, 0, client + opCut, 0},
		// an idle end of a stalled relay
		{client + opStopReading, 0, backend + opSend, 7, backend + opSend, 7, client + opAwaitIdle, 0},
	} {
		for _, flags := range []byte{0, onLoops, onLoops | smallBuffers, wrapped | lateStart, smallBuffers | canIdle, onLoops | smallBuffers | canIdle | canCut} {
			f.Add(append([]byte{flags, 8 * flags}, steps...))
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) { runProgram(t, p) })
}
