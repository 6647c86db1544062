package handler

import (
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// onOneLoop has a rig's relays share one loop.
func onOneLoop() func(*Options) { return with(oneLoop()) }

// pairFor is a pair of a rig's, as one that a client has come to.
func (r *rig) pairFor(client *net.TCPConn) *pair {
	r.t.Helper()
	t := &tcpRelay{relay: r.relay, client: client.RemoteAddr(), local: client.LocalAddr(), began: time.Now()}
	if !r.service.enter(t) {
		r.t.Fatal("no room")
	}
	fd, err := netio.Detach(client)
	check(r.t, err)
	return r.relay.opts.TCP.(*loops).newPair(t, fd)
}

// outcomeOf is a connection as the attempt loop or a loop itself has it.
func (r *rig) outcomeOf(backend string) (outcome, begun) {
	at := netip.MustParseAddrPort(backend)
	now := time.Now()
	walk := r.service.Pool.Walk(upstream.TCP)
	a, _ := walk.Next(now)
	return outcome{attempt: a, addr: at.Addr()}, begun{walk: walk, attempt: a, addrs: []netip.Addr{at.Addr()}, since: now}
}

// A greeting, or an end, that comes in one event with the connection itself is
// not told of again.
func TestWordThatComesWithTheConnection(t *testing.T) {
	for _, ends := range []bool{false, true} {
		noLeaks(t)
		server, conns := handOver(t, "127.0.0.1:0")
		r := newRig(t, []string{server.String()}, onOneLoop())
		near, far := tcpPair(t)
		p := r.pairFor(far)
		_, b := r.outcomeOf(server.String())
		fd, _, err := connectTCP(netip.MustParseAddrPort(server.String()))
		check(t, err)
		backend := receiveFrom(t, "a connection", conns)
		say(t, backend, "hello")
		if ends {
			check(t, backend.CloseWrite())
		}
		eventually(t, "the word to be there", func() bool { return pending(t, fd) })
		p.loop.mu.Lock() // nobody is told before both are there
		check(t, p.loop.placeLocked(p))
		p.loop.mu.Unlock()
		p.waitForBackend(&connecting{begun: b, ctx: t.Context(), fd: fd})
		hear(t, near, "hello")
		if ends {
			wantEnding(t, "the client", near, "FIN")
		}
		r.service.Close()
	}
}

// An event that was under way when its socket left the loop says nothing of the
// relay, which may have another socket by now.
func TestStaleEvents(t *testing.T) {
	noLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()}, onOneLoop())
	near, far := tcpPair(t)
	p := r.pairFor(far)
	_, b := r.outcomeOf(silent.String())
	fd, _, err := connectTCP(netip.MustParseAddrPort(silent.String()))
	check(t, err)
	c := &connecting{begun: b, ctx: t.Context(), fd: fd}
	p.waitForBackend(c)
	p.mu.Lock()
	if p.connecting == nil {
		t.Skip("taken over already")
	}
	old := p.ends[backendSide].id
	p.mu.Unlock()
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.takeOver(c) // or its timer has
	}()
	eventually(t, "the attempt loop", func() bool {
		p.relay.mu.Lock()
		defer p.relay.mu.Unlock()
		return p.relay.search != nil
	})
	say(t, near, "question")
	buf := netio.GetBuffer()
	defer buf.Free()
	everything := uint32(unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLERR | unix.EPOLLHUP | unix.EPOLLRDHUP)
	p.event(old, everything, buf)
	silent.wake(echo)
	hear(t, near, "question")
	p.event(old, everything, buf)
	say(t, near, "another")
	hear(t, near, "another")
	receiveFrom(t, "the end of the search", over)
	p.mu.Lock()
	if p.ends[backendSide].id == old || p.ends[backendSide].broken {
		t.Error("the second socket is taken for the first")
	}
	p.mu.Unlock()
	p.cut(clientReset)
}

// bitByBit is a rig whose only idle pipe takes a bit at a time. lay gives a pair
// that has a connection to a backend, and so many bits to carry there.
func bitByBit(t *testing.T) (r *rig, lay func(bits int) (p *pair, fd int, backend *net.TCPConn)) {
	t.Helper()
	noLeaks(t)
	server, conns := handOver(t, "127.0.0.1:0")
	r = newRig(t, []string{server.String()}, onOneLoop())
	pool := r.relay.opts.TCP.(*loops).tcp[0].pipes
	narrow := pool.get()
	if narrow == nil {
		t.Skip("nothing is spliced")
	}
	t.Cleanup(pool.trim)
	_, err := unix.FcntlInt(uintptr(narrow.write), unix.F_SETPIPE_SZ, os.Getpagesize())
	check(t, err)
	narrow.put()
	// A thread's bytes lie one after the other in memory, on their way through
	// loopback, and would all be one bit: others' lie between them.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	others, _ := tcpPair(t)
	return r, func(bits int) (*pair, int, *net.TCPConn) {
		near, far := tcpPair(t)
		p := r.pairFor(far)
		for i := range bits {
			say(t, near, "bit ")
			say(t, others, "gap ")
			eventually(t, "the bit", func() bool { return buffered(t, p.ends[clientSide].fd) == 4*(i+1) })
		}
		fd, _, err := connectTCP(netip.MustParseAddrPort(server.String()))
		check(t, err)
		p.halves[clientSide].bulk = bulkAfter
		return p, fd, receiveFrom(t, "a connection", conns)
	}
}

// What one turn leaves undone as bytes begin to be carried is done by the loop,
// though no event will tell of it: the last of it may lie in a pipe. Some number
// of bits ends with a turn.
func TestFirstTurnLeavesSomething(t *testing.T) {
	r, lay := bitByBit(t)
	for bits := range 3 * maxTurns {
		p, fd, backend := lay(bits)
		_, b := r.outcomeOf(backend.LocalAddr().String())
		p.connected(b, fd)
		hear(t, backend, strings.Repeat("bit ", bits))
		p.cut(clientReset)
	}
}

// A turn is a number of system calls, whatever there is to carry.
func TestTurnIsBounded(t *testing.T) {
	_, lay := bitByBit(t)
	const bits = 3 * maxTurns
	p, fd, _ := lay(bits)
	p.mu.Lock()
	p.ends[backendSide] = end{fd: fd, out: true}
	more := p.moveOneLocked(clientSide, nil)
	moved, held := p.halves[clientSide].sum, p.halves[clientSide].holds()
	p.mu.Unlock()
	p.cut(clientReset)
	if !more || moved == 0 || int(moved)+held > 4*maxTurns {
		t.Errorf("moved %d bytes of %d in a turn, and holds %d; more to do: %v", moved, 4*bits, held, more)
	}
}

// buffered is how much there is to read.
func buffered(t testing.TB, fd int) int {
	t.Helper()
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	check(t, err)
	return n
}

// A panic on the way to a loop is the end of the relay, too, and not handed on
// to those who would serve it once more.
func TestPanicBeforeTheLoop(t *testing.T) {
	noLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{"a.test:80", live.String()}, onOneLoop(), func(o *Options) {
		o.Resolver = forgetful{o.Resolver}
	})
	for range 3 {
		client, done := r.client()
		wantEnding(t, "the client", client, "RST")
		receiveFrom(t, "the end", done)
	}
	if got := len(r.lines("relay ended by a panic")); got != 3 {
		t.Errorf("%d lines tell of the panic:\n%s", got, r.transcript())
	}
	if tcp, _ := r.service.Active(); tcp != 0 {
		t.Errorf("%d are active", tcp)
	}
}

// forgetful is a resolver that panics over its memory.
type forgetful struct{ Resolver }

func (forgetful) Cached(string) ([]netip.Addr, bool) { panic("forgotten") }

// A read stops short of urgent data, and there is more behind it. Urgency itself
// is lost, as it is in the portable way.
func TestUrgentData(t *testing.T) {
	for _, size := range []int{10, 1 << 20} { // copied and spliced
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			r, client, backend, done := established(t)
			got := make(chan string, 1)
			go func() {
				all, _ := io.ReadAll(backend)
				got <- string(all)
			}()
			before, after := strings.Repeat("a", size), strings.Repeat("b", size)
			for range 3 {
				say(t, client, before)
				raw, err := client.SyscallConn()
				check(t, err)
				check(t, raw.Write(func(fd uintptr) bool {
					err = syscall.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil)
					return err != syscall.EAGAIN
				}))
				check(t, err)
				say(t, client, after)
			}
			eventually(t, "all of it", func() bool {
				relay := r.relayOf(client.LocalAddr().String(), client.RemoteAddr().String())
				relay.mu.Lock()
				defer relay.mu.Unlock()
				return relay.tally == nil || relay.tally.bytesUp.Load() >= uint64(6*size)
			})
			check(t, client.CloseWrite())
			// What was urgent and is so no more, as more followed, is plain data.
			if all := receiveFrom(t, "all", got); strings.ReplaceAll(all, "!", "") != strings.Repeat(before+after, 3) {
				t.Errorf("got %d bytes", len(all))
			}
			check(t, backend.CloseWrite())
			receiveFrom(t, "the end", done)
		})
	}
}

// Where nobody listens, a socket of the very same port may connect to itself.
func TestNoConnectionToItself(t *testing.T) {
	noLeaks(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	check(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := unix.Getsockname(fd)
	check(t, err)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
	check(t, unix.Connect(fd, name))
	var self, other unix.RawSockaddrInet6
	_, _, err = rawSockaddr(at, &self)
	check(t, err)
	if !toItself(fd, &self) {
		t.Error("it has, and is not found out")
	}
	_, _, err = rawSockaddr(netip.AddrPortFrom(at.Addr(), at.Port()^1), &other)
	check(t, err)
	if toItself(fd, &other) {
		t.Error("it has not")
	}
	if _, err := os.Stat("/proc/self/net/tcp6"); err == nil {
		six, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		defer unix.Close(six)
		if toItself(six, &self) {
			t.Error("nor has that one")
		}
	}
}
