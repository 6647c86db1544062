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

// A turn is a bounded number of system calls, whatever there is to move.
func TestTurnIsBoundedInCalls(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	// A pipe that takes one segment at a time makes each read one of four bytes.
	w := &workspace{buf: netio.GetBuffer(), pipe: givePipe(t, engine.all[0], os.Getpagesize()), calm: calmEvents}
	defer w.buf.Free()
	// On loopback, bytes that a thread sends one after the other are adjacent in
	// memory, and the kernel would merge them into one segment. Bytes of another
	// connection in between prevent that.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	others, _ := tcpPair(t, 0)
	const bits = 3 * maxCalls
	r := newTurnRig(t, engine)
	for i := range bits {
		say(t, r.client, "bit ")
		say(t, others, "gap ")
		r.waitUnread(4 * (i + 1))
	}
	r.m.flows[ClientSide].bulk = largeReads
	if moved, more := r.turn(w); !more || moved != 4*maxCalls {
		t.Errorf("moved %d bytes of %d in a turn; more to do: %v", moved, 4*bits, more)
	}
	w.pipe.close()
}

// The first pieces of a direction are small, so that the kernel does not make the receive
// buffer of a client that soon stops reading as large as it may be.
func TestPiecesOfAYoungFlow(t *testing.T) {
	for moved, want := range map[int64]int{0: youngPiece, youngFlow - 1: youngPiece, youngFlow: maxPiece, 1 << 40: maxPiece} {
		flow := transfer{counter: counter{sum: moved}}
		if got := flow.maxPiece(); got != want {
			t.Errorf("%d bytes after %d, want %d", got, moved, want)
		}
	}
}

// A turn is bounded in bytes, and less so on a loop that carries no small messages.
func TestTurnIsBoundedInBytes(t *testing.T) {
	for name, test := range map[string]struct{ calm, least, most int }{
		"with small messages": {0, smallTurn, smallTurn},
		"calm":                {calmEvents, maxCalls * netio.BufferSize, maxCalls * netio.BufferSize},
	} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			w := &workspace{buf: netio.GetBuffer(), calm: test.calm}
			defer w.buf.Free()
			r := newTurnRig(t, oneLoop(t))
			const size = 1 << 20
			say(t, r.client, string(make([]byte, size)))
			r.waitUnread(size)
			if moved, more := r.turn(w); !more || moved < test.least || moved > test.most {
				t.Errorf("moved %d bytes in a turn, want %d to %d; more to do: %v", moved, test.least, test.most, more)
			}
		})
	}
}

// turnRig is a relay whose turns the test makes.
type turnRig struct {
	*loopRig
	t *testing.T
}

func newTurnRig(t *testing.T, engine *loops) turnRig {
	t.Helper()
	r := turnRig{newLoopRig(t, engine, setup{delay: true, buffers: 4 << 20}), t}
	close(r.carried) // which it never is
	fd, err := netio.Detach(r.backendNear)
	relaytest.Check(t, err)
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.sockets[BackendSide] = socket{fd: fd, writable: true}
	t.Cleanup(func() { r.mover.Cut(ClientReset) })
	return r
}

// waitUnread waits until so many bytes of the client have arrived.
func (r turnRig) waitUnread(bytes int) {
	r.t.Helper()
	relaytest.Eventually(r.t, "the client's bytes", func() bool {
		n, ok := netio.UnreadFD(r.m.sockets[ClientSide].fd)
		return ok && n == bytes
	})
}

// turn makes one turn of the direction to the backend, and returns how many bytes it
// has moved, and whether there is more to move.
func (r turnRig) turn(w *workspace) (moved int, more bool) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.moveOneLocked(ClientSide, w)
	return int(r.m.flows[ClientSide].sum), r.m.canMoveLocked(ClientSide)
}

// What the first turn of a relay leaves is moved by the loop, though no event of
// the sockets reports it.
func TestFirstTurnLeavesSomething(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	for _, size := range []int{smallTurn - 1, smallTurn, smallTurn + 1, smallTurn + netio.BufferSize, 3 * smallTurn} {
		r := newLoopRig(t, engine, setup{delay: true, buffers: 4 << 20})
		sent := randomText(size)
		say(t, r.client, sent)
		waitAcknowledged(t, r.client)
		r.start()
		hear(t, r.backend, sent)
		r.mover.Cut(ClientReset)
		r.end()
	}
}

// Of what a side does not read, the relay holds at most one buffer, however much the
// other side has to send, and loses none of it.
func TestBackpressure(t *testing.T) {
	for name, disable := range map[string]string{"copied": "splice", "spliced": ""} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", disable)
			relaytest.NoLeaks(t)
			r := newLoopRig(t, oneLoop(t), setup{})
			say(t, r.client, "hello")
			hear(t, r.backend, "hello")
			var sentUp, sentDown int
			relaytest.Eventually(t, "two blocked directions", func() bool {
				sentUp, sentDown = sentUp+sendUntilFull(t, r.client), sentDown+sendUntilFull(t, r.backend)
				return r.flow(ClientSide) == blocked && r.flow(BackendSide) == blocked
			})
			if up, down := r.held(); up > netio.BufferSize || down > netio.BufferSize {
				t.Errorf("holds %d and %d bytes, want at most %d", up, down, netio.BufferSize)
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
// or later, the relay copies and loses nothing.
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
	p := givePipe(t, engine.all[0], 0)
	denySplice := func() {
		if into {
			deny(t, unix.SYS_SPLICE, errno, 2, p.Write)
		} else {
			deny(t, unix.SYS_SPLICE, errno, 0, p.Read)
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
	for ready := !later; !ready; {
		for source := range got { // until both directions are bulk
			buf := make([]byte, 64<<10)
			n, err := r.side(Side(source).other()).Read(buf)
			relaytest.Check(t, err)
			got[source] = append(got[source], buf[:n]...)
		}
		r.m.mu.Lock()
		if ready = r.m.flows[ClientSide].spliced > 0 && r.m.flows[BackendSide].spliced > 0; ready {
			denySplice() // under the lock, so that no bytes move before
		}
		r.m.mu.Unlock()
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
}

// A pipe whose bytes can be neither spliced nor read ends its relay with resets, so
// that no side takes the stream for complete.
func TestPipeThatCannotBeRead(t *testing.T) {
	if !relaytest.InChild(t, "RELAY_DISABLE=") {
		return
	}
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	p := givePipe(t, engine.all[0], 0)
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
