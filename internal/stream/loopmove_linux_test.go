package stream

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// bitRig makes relays whose only pipe takes a bit at a time, a segment of four
// bytes. Each read and each write is then one system call per bit.
type bitRig struct {
	t      *testing.T
	engine *loops
	others *net.TCPConn
}

func newBitRig(t *testing.T) *bitRig {
	t.Helper()
	t.Setenv("RELAY_DISABLE", "")
	relaytest.NoLeaks(t)
	b := &bitRig{t: t, engine: oneLoop(t)}
	keepRunning(t, b.engine.all[0]) // a loop that stops closes idle pipes
	pool := b.engine.all[0].pipes
	narrow := pool.get()
	if narrow == nil {
		t.Fatal("no pipe")
	}
	_, err := unix.FcntlInt(uintptr(narrow.Write), unix.F_SETPIPE_SZ, os.Getpagesize())
	relaytest.Check(t, err)
	pool.put(narrow)
	// On loopback, bytes that a thread sends one after the other are adjacent in
	// memory, and the kernel would merge them into one segment. Bytes of another
	// connection in between prevent that.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	b.others, _ = tcpPair(t, 0)
	return b
}

// relay returns a relay that was not started, to which a client has sent so many
// bits.
func (b *bitRig) relay(bits int) *loopRig {
	b.t.Helper()
	r := newLoopRig(b.t, b.engine, setup{delay: true})
	for i := range bits {
		say(b.t, r.client, "bit ")
		say(b.t, b.others, "gap ")
		relaytest.Eventually(b.t, "the bit", func() bool {
			n, ok := netio.UnreadFD(r.m.sockets[ClientSide].fd)
			return ok && n == 4*(i+1)
		})
	}
	r.m.flows[ClientSide].bulk = largeReads
	return r
}

// wantNarrow fails if the narrow pipe was not used.
func (b *bitRig) wantNarrow() {
	b.t.Helper()
	wantPipes(b.t, b.engine.all[0].pipes, 1, 1)
}

// What the first turn of a relay leaves is moved by the loop, though no event of
// the sockets reports it: the last bytes may be in a pipe. Some number of bits ends
// with a turn.
func TestFirstTurnLeavesSomething(t *testing.T) {
	b := newBitRig(t)
	for bits := range 3 * maxCalls {
		r := b.relay(bits)
		r.start()
		hear(t, r.backend, strings.Repeat("bit ", bits))
		// Nor is the pipe kept if the last call of a turn finds that nothing is left.
		relaytest.Eventually(t, "the pipe to be returned", func() bool { _, idle := b.engine.all[0].pipes.count(); return idle == 1 })
		r.mover.Cut(ClientReset)
		r.end()
	}
	b.wantNarrow()
}

// A turn is a bounded number of system calls, whatever there is to move.
func TestTurnIsBounded(t *testing.T) {
	b := newBitRig(t)
	const bits = 3 * maxCalls
	r := b.relay(bits)
	close(r.carried) // which it never is
	fd, err := netio.Detach(r.backendNear)
	relaytest.Check(t, err)
	r.m.mu.Lock()
	r.m.sockets[BackendSide] = socket{fd: fd, writable: true}
	r.m.moveOneLocked(ClientSide, nil)
	more := r.m.canMoveLocked(ClientSide)
	moved, held := r.m.flows[ClientSide].sum, r.m.flows[ClientSide].bytesHeld()
	r.m.mu.Unlock()
	r.mover.Cut(ClientReset)
	if !more || moved == 0 || int(moved)+held > 4*maxCalls {
		t.Errorf("moved %d bytes of %d in a turn, and holds %d; more to do: %v", moved, 4*bits, held, more)
	}
}

// Of what a side does not read, the relay holds one buffer or one pipe, however
// much the other side has to send, and loses none of it.
func TestBackpressure(t *testing.T) {
	for _, test := range []struct {
		name, disable string
		most          int
	}{{"copied", "splice", netio.BufferSize}, {"spliced", "", pipeSize}} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", test.disable)
			relaytest.NoLeaks(t)
			r := newLoopRig(t, oneLoop(t), setup{})
			say(t, r.client, "hello")
			hear(t, r.backend, "hello")
			var sentUp, sentDown, up, down int
			relaytest.Eventually(t, "held bytes in both directions", func() bool {
				sentUp, sentDown = sentUp+sendUntilFull(t, r.client), sentDown+sendUntilFull(t, r.backend)
				up, down = r.held()
				return up > 0 && down > 0
			})
			if up > test.most || down > test.most {
				t.Errorf("holds %d and %d bytes, want at most %d", up, down, test.most)
			}
			relaytest.Check(t, r.client.CloseWrite())
			relaytest.Check(t, r.backend.CloseWrite())
			zeros := func(n int) string { return string(make([]byte, n)) }
			wantSlowStream(t, "the backend", r.backend, zeros(sentUp), fin, 256<<10, time.Millisecond)
			wantSlowStream(t, "the client", r.client, zeros(sentDown), fin, 256<<10, time.Millisecond)
			if end := r.end(); end.BytesUp != int64(sentUp)+5 || end.BytesDown != int64(sentDown) {
				t.Errorf("ended as %+v", end)
			}
		})
	}
}

// sayUrgently sends one byte of urgent data.
func sayUrgently(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	relaytest.Check(t, conn.SetWriteDeadline(time.Now().Add(relaytest.Limit)))
	raw, err := conn.SyscallConn()
	relaytest.Check(t, err)
	var sendErr error
	relaytest.Check(t, raw.Write(func(fd uintptr) (done bool) {
		sendErr = unix.Sendto(int(fd), []byte(urgent), unix.MSG_OOB, nil)
		return !errors.Is(sendErr, unix.EAGAIN)
	}))
	relaytest.Check(t, sendErr)
}

// urgent is the byte of urgent data, which no other data contains.
const urgent = "!"

// calmText is text without the urgent byte.
func calmText(n int) string { return strings.ReplaceAll(text(n), urgent, "?") }

// wantCalmStream is wantSlowStream, except that urgent bytes may be in the stream
// or be missing: one that is followed by another becomes plain data.
func wantCalmStream(t testing.TB, who string, conn *net.TCPConn, want string, pause time.Duration) {
	t.Helper()
	got, how := readToEnd(conn, 64<<10, pause)
	if calm := strings.ReplaceAll(string(got), urgent, ""); calm != want || how != fin {
		t.Errorf("%s received %d bytes and %s, want %d and FIN (the same so far: %v)", who, len(calm), how, len(want), strings.HasPrefix(want, calm))
	}
}

// Urgent data, of which the urgent byte is lost, does not end the stream: splice(2)
// returns 0 before it once a FIN was received, and a read stops short of it.
func TestUrgentDataInTheQueue(t *testing.T) {
	forEachMover(t, func(t *testing.T, k kind) {
		for _, test := range []struct {
			name   string
			pieces []int // an urgent byte is sent between any two
		}{
			{"a little", []int{10, 10, 10, 10}},
			{"at the beginning", []int{0, 300 << 10}},
			{"while copied", []int{30 << 10, 200 << 10}},
			{"while spliced", []int{200 << 10, 100 << 10}},
			{"often", []int{100 << 10, 100 << 10, 100 << 10}},
			{"at the end", []int{300 << 10, 0}},
			{"alone", []int{0, 0}},
		} {
			for _, from := range []Side{ClientSide, BackendSide} {
				t.Run(test.name+", "+from.name(), func(t *testing.T) { testUrgentDataInTheQueue(t, k, from, test.pieces) })
			}
		}
	})
}

func testUrgentDataInTheQueue(t *testing.T, k kind, from Side, pieces []int) {
	r := newRig(t, k, setup{delay: true, buffers: 2 << 20})
	goes, stays := r.side(from), r.side(from.other())
	all := ""
	for i, n := range pieces {
		if i > 0 {
			sayUrgently(t, goes)
		}
		piece := calmText(n)
		say(t, goes, piece)
		all += piece
	}
	relaytest.Check(t, goes.CloseWrite())
	waitAcknowledged(t, goes) // so that all of it is in the relay's queue
	r.start()
	wantCalmStream(t, "the reader", stays, all, 0)
	r.wantRunning()
	relaytest.Check(t, stays.CloseWrite())
	if end := r.end(); end.Reason != from.closed() {
		t.Errorf("ended as %+v", end)
	}
}

func (s Side) name() string { return [...]string{"client", "backend"}[s] }

// Urgent data in the middle of bulk loses no other byte, whether the reader is fast
// or slow, and with both directions busy.
func TestUrgentDataInBulk(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Millisecond} {
		t.Run("pause "+pause.String(), func(t *testing.T) {
			variants(t, func(t *testing.T, k kind, s setup) {
				size := 1 << 20
				if s.buffers > 0 {
					size = 100 << 10
				}
				r := newRig(t, k, s)
				var waits []func()
				var want [2]string // by source
				for _, from := range []Side{ClientSide, BackendSide} {
					piece := calmText(size + int(from))
					want[from] = strings.Repeat(piece, 6)
					waits = append(waits, async(func() { // ends with the last byte
						for i := range 6 {
							if i > 0 {
								sayUrgently(t, r.side(from))
							}
							say(t, r.side(from), piece)
						}
						relaytest.Check(t, r.side(from).CloseWrite())
					}), async(func() { // ends with the stream
						wantCalmStream(t, "the reader of the "+from.name(), r.side(from.other()), want[from], pause)
					}))
				}
				for _, wait := range waits {
					wait()
				}
				if end := r.end(); end.Reason != ClientClosed && end.Reason != BackendClosed {
					t.Errorf("ended as %+v", end)
				}
			})
		})
	}
}

// Urgent data that comes alone delays nothing that follows it.
func TestUrgentDataInADialogue(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		r := newRig(t, k, s)
		for range 50 {
			for _, from := range []Side{ClientSide, BackendSide} {
				sayUrgently(t, r.side(from))
				time.Sleep(time.Millisecond) // so that it is reported alone
				say(t, r.side(from), "word")
				buf := make([]byte, 0, 16)
				for got := ""; got != "word"; got = strings.ReplaceAll(string(buf), urgent, "") {
					relaytest.Check(t, r.side(from.other()).SetReadDeadline(time.Now().Add(relaytest.Limit)))
					n, err := r.side(from.other()).Read(buf[len(buf):cap(buf)])
					relaytest.Check(t, err)
					buf = buf[:len(buf)+n]
				}
			}
		}
	})
}

// deny makes a system call fail with an error where an argument of it is one of the
// descriptors, for the rest of this process.
func deny(t *testing.T, call int, errno syscall.Errno, argument int, fds ...int) {
	t.Helper()
	load := func(offset int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(offset)}
	}
	jump := func(value, ifNot int) unix.SockFilter { // skips so many instructions
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(value), Jf: uint8(ifNot)}
	}
	result := func(value uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value} }
	const allow, fail = 0x7fff0000, 0x00050000 // SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
	// Offsets in struct seccomp_data, see seccomp(2); little-endian.
	filter := []unix.SockFilter{load(0), jump(call, 1+2*len(fds)), load(16 + 8*argument)}
	for _, fd := range fds {
		filter = append(filter, jump(fd, 1), result(fail|uint32(errno)))
	}
	filter = append(filter, result(allow))
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter, allThreads = 1, 1 // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
	// The attribute belongs to a thread; the call below passes it on to all.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	relaytest.Check(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, failed := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, reflect.ValueOf(program).Pointer())
	runtime.KeepAlive(program)
	if failed != 0 {
		t.Skip("no seccomp: ", failed)
	}
}

// Where splice(2) is refused, into a pipe or out of it, before anything was spliced
// or later with bytes in the pipe, the relay copies and loses nothing.
func TestSpliceErrors(t *testing.T) {
	errors := []syscall.Errno{unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.ENOMEM}
	if testing.Short() {
		errors = errors[:1]
	}
	for _, errno := range errors {
		for _, into := range []bool{true, false} {
			for _, later := range []bool{true, false} {
				name := unix.ErrnoName(errno) + map[bool]string{true: " into", false: " out of"}[into] + " the pipe" +
					map[bool]string{true: " later", false: ""}[later]
				t.Run(name, func(t *testing.T) {
					if relaytest.InChild(t, "RELAY_DISABLE=") {
						testSpliceError(t, errno, into, later)
					}
				})
			}
		}
	}
}

// randomText returns n random bytes. It is faster than text.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return string(b)
}

func testSpliceError(t *testing.T, errno syscall.Errno, into, later bool) {
	engine := oneLoop(t)
	pool := engine.all[0].pipes
	lent := []*pipe{pool.get(), pool.get()} // those that the two directions will get
	for _, p := range lent {
		pool.put(p)
	}
	denySplice := func() {
		if into {
			deny(t, unix.SYS_SPLICE, errno, 2, lent[0].Write, lent[1].Write)
		} else {
			deny(t, unix.SYS_SPLICE, errno, 0, lent[0].Read, lent[1].Read)
		}
	}
	if !later {
		denySplice()
	}
	r := newLoopRig(t, engine, setup{})
	const size = 24 << 20 // much more than all buffers hold
	up, down := randomText(size), randomText(size+1)
	sending := []func(){
		async(func() { say(t, r.client, up); relaytest.Check(t, r.client.CloseWrite()) }),
		async(func() { say(t, r.backend, down); relaytest.Check(t, r.backend.CloseWrite()) }),
	}
	var got [2][]byte // by source
	if later {
		relaytest.Eventually(t, "bytes in both pipes", func() bool {
			r.m.mu.Lock()
			defer r.m.mu.Unlock()
			ready := true
			for source := range r.m.flows {
				flow := &r.m.flows[source]
				if flow.pipe != nil && flow.pipe.bytes > 0 {
					continue
				}
				ready = false
				if flow.bytesHeld() > 0 { // it was blocked before it was spliced
					buf := make([]byte, 64<<10)
					n, err := r.side(Side(source).other()).Read(buf)
					relaytest.Check(t, err)
					got[source] = append(got[source], buf[:n]...)
				}
			}
			if ready {
				denySplice() // under the lock, so that no bytes move before
			}
			return ready
		})
	}
	reading := []func(){
		async(func() { wantStallingStream(t, "the backend", r.backend, got[ClientSide], up) }),
		async(func() { wantStallingStream(t, "the client", r.client, got[BackendSide], down) }),
	}
	for _, wait := range append(sending, reading...) {
		wait()
	}
	if end := r.end(); end.BytesUp != size || end.BytesDown != size+1 || end.Reason != ClientClosed && end.Reason != BackendClosed {
		t.Errorf("ended as %+v", end)
	}
	for source := range r.m.flows {
		if !r.m.flows[source].noSplice {
			t.Error("splice was not refused")
		}
	}
	if open, idle := pool.count(); open != idle {
		t.Errorf("%d pipes are open, %d of them idle", open, idle)
	}
}

// A pipe whose bytes can be neither spliced nor read ends its relay with resets, so
// that no side takes the stream for complete.
func TestPipeThatCannotBeRead(t *testing.T) {
	if !relaytest.InChild(t, "RELAY_DISABLE=") {
		return
	}
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	pool := engine.all[0].pipes
	p := pool.get()
	pool.put(p)
	deny(t, unix.SYS_SPLICE, unix.EINVAL, 0, p.Read)
	deny(t, unix.SYS_READ, unix.EIO, 0, p.Read)
	r := newLoopRig(t, engine, setup{})
	sending := async(func() { _, _ = r.client.Write(make([]byte, 4<<20)) }) // ends with the connection
	if _, how := readToEnd(r.backend, 64<<10, 0); how != rst {
		t.Errorf("the backend received %s", how)
	}
	sending()
	if end := r.end(); end.Reason != Exhausted || !errors.Is(end.Err, unix.EIO) {
		t.Errorf("ended as %+v", end)
	}
	wantPipes(t, pool, 0, 0)
}

// wantStallingStream is wantStream for a FIN and a reader that has read some bytes
// already. It stops now and then, for long enough that everything before it fills up.
func wantStallingStream(t testing.TB, who string, conn *net.TCPConn, got []byte, want string) {
	t.Helper()
	buf := make([]byte, 100_000)
	for next := 0; ; {
		if len(got) >= next {
			time.Sleep(50 * time.Millisecond)
			next += len(want) / 4
		}
		_ = conn.SetReadDeadline(time.Now().Add(relaytest.Limit))
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) || string(got) != want {
			t.Errorf("%s received %d bytes and %v, want %d and EOF (the same so far: %v)", who, len(got), err, len(want), strings.HasPrefix(want, string(got)))
		}
		return
	}
}
