package takeover

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// keyOf returns a key that a number identifies.
func keyOf(i int) Key {
	return Key{
		Socket: netip.MustParseAddrPort("[::]:53"),
		Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(1000+i)),
		Local:  netip.MustParseAddr("fe80::1%eth0"),
	}
}

// recorder records what arrives on a link.
type recorder struct {
	mu     sync.Mutex
	events []string
	calls  int
	closed chan struct{}
	once   sync.Once
	block  chan struct{} // if set, Datagrams waits for it
}

func newRecorder() *recorder { return &recorder{closed: make(chan struct{})} }

func (r *recorder) Datagrams(_ *Link, k Key, datagrams [][]byte) {
	if r.block != nil {
		<-r.block
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	for _, d := range datagrams {
		r.events = append(r.events, fmt.Sprintf("%s %.20s", k.Client, d))
	}
}

func (r *recorder) Ended(_ *Link, k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, k.Client.String()+" ended")
}

func (r *recorder) Closed(*Link) { r.once.Do(func() { close(r.closed) }) }

func (r *recorder) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// newLinks returns both ends of a stopped link.
func newLinks(t *testing.T) (near, far *Link) {
	t.Helper()
	conn, file, err := netio.MessagePair()
	relaytest.Check(t, err)
	defer file.Close()
	other, err := netio.MessageConn(file)
	relaytest.Check(t, err)
	near, far = NewLink(conn), NewLink(other)
	t.Cleanup(func() {
		near.Close()
		far.Close()
		near.running.Wait()
		far.running.Wait()
	})
	return near, far
}

// Records arrive unchanged and in order, whatever their sizes, and those of one client
// together.
func TestLink(t *testing.T) {
	relaytest.NoLeaks(t)
	near, far := newLinks(t)
	got := newRecorder()
	var want []string
	sizes := []int{0, 1, 1200, 65507, 9000, 65535, 20, 32 << 10, 3}
	for i, size := range sizes {
		datagram := bytes.Repeat([]byte{'a' + byte(i)}, size)
		if n := near.Send(keyOf(i), datagram, []byte("x")); n > 0 {
			t.Errorf("%d dropped", n)
		}
		near.End(keyOf(i))
		name := keyOf(i).Client.String()
		want = append(want, fmt.Sprintf("%s %.20s", name, datagram), name+" x", name+" ended")
	}
	near.Start(newRecorder())
	far.Start(got)
	relaytest.Eventually(t, "all records", func() bool { return len(got.list()) == len(want) })
	if list := got.list(); !slices.Equal(list, want) {
		t.Errorf("got %q, want %q", list, want)
	}
	near.Close()
	relaytest.Receive(t, "the end of the other process", got.closed)
	if far.Send(keyOf(1), []byte("late")) != 1 {
		t.Error("a datagram for a process that has ended was not dropped")
	}
}

// An old process that finishes handles all datagrams that were sent before the new one
// knew, and sends back what it does not take.
func TestLinkFinish(t *testing.T) {
	relaytest.NoLeaks(t)
	old, new := newLinks(t)
	back := newRecorder()
	returning := &returner{recorder: newRecorder()}
	for range 1000 {
		new.Send(keyOf(1), []byte("late"))
	}
	new.Start(back)
	old.Start(returning)
	old.Finish(relaytest.Limit)
	relaytest.Receive(t, "the end of the old process", back.closed)
	if n := len(back.list()); n != 1000 {
		t.Errorf("%d of 1000 datagrams came back", n)
	}
}

// returner sends all datagrams back.
type returner struct{ *recorder }

func (r *returner) Datagrams(l *Link, k Key, datagrams [][]byte) { l.Send(k, datagrams...) }

// A batch of datagrams of one client stays one call.
func TestLinkKeepsGroups(t *testing.T) {
	relaytest.NoLeaks(t)
	near, far := newLinks(t)
	got := newRecorder()
	near.Send(keyOf(1), []byte("a"), []byte("b"), []byte("c"))
	near.Send(keyOf(2), []byte("d"))
	near.Start(newRecorder())
	far.Start(got)
	relaytest.Eventually(t, "the datagrams", func() bool { return len(got.list()) == 4 })
	if got.calls != 2 {
		t.Errorf("%d calls for 2 clients", got.calls)
	}
}

// While the other process does not read, datagrams are kept up to a limit, and the ends
// of clients without one.
func TestLinkIsBounded(t *testing.T) {
	relaytest.NoLeaks(t)
	near, far := newLinks(t)
	near.Start(newRecorder())
	datagram := make([]byte, 10_000)
	sent, dropped := 0, 0
	for range 1000 { // 10 MB
		sent++
		dropped += near.Send(keyOf(1), datagram)
		near.End(keyOf(2))
	}
	if kept := sent - dropped; kept < 400 || kept > 500 { // 4 MiB, and the socket's buffer
		t.Errorf("%d datagrams kept", kept)
	}
	got := newRecorder()
	far.Start(got)
	relaytest.Eventually(t, "all that was kept", func() bool { return len(got.list()) == sent-dropped+sent })
}

// A link that was stopped at both ends continues in other processes, without a gap.
func TestLinkMoves(t *testing.T) {
	relaytest.NoLeaks(t)
	near, far := newLinks(t)
	got := newRecorder()
	far.Start(got)
	numbered := func(from, to int) {
		for i := from; i < to; i++ {
			near.Send(keyOf(1), binary.BigEndian.AppendUint32(nil, uint32(i)))
		}
	}
	const each = 5000
	for i := range 4 {
		near.Start(newRecorder())
		numbered(i*each, (i+1)*each)
		relaytest.Check(t, near.Stop(relaytest.Limit))
		file, err := near.File()
		relaytest.Check(t, err)
		conn, err := netio.MessageConn(file)
		relaytest.Check(t, err)
		file.Close()
		near.Close()
		near = NewLink(conn)
	}
	defer near.Close()
	relaytest.Eventually(t, "all datagrams", func() bool { return len(got.list()) == 4*each })
	for i, event := range got.list() {
		if want := fmt.Sprintf("%s %s", keyOf(1).Client, binary.BigEndian.AppendUint32(nil, uint32(i))); event != want {
			t.Fatalf("datagram %d is %q", i, event)
		}
	}
}

// A link whose other end is not read cannot move, and goes on when it is started again.
func TestLinkStopFails(t *testing.T) {
	relaytest.NoLeaks(t)
	near, far := newLinks(t)
	near.Start(newRecorder())
	for range 300 {
		near.Send(keyOf(1), make([]byte, 10_000))
	}
	if err := near.Stop(20 * time.Millisecond); err == nil {
		t.Fatal("stopped with datagrams that were not written")
	}
	got := newRecorder()
	far.Start(got)
	near.Start(newRecorder())
	relaytest.Eventually(t, "all datagrams", func() bool { return len(got.list()) == 300 })
}

// Garbage ends a link and not the process.
func FuzzRecords(f *testing.F) {
	f.Add(appendRecord(appendRecord(nil, kindDatagram, keyOf(1), []byte("hello")), kindEnded, keyOf(2), nil))
	f.Add([]byte{kindDatagram})
	f.Fuzz(func(t *testing.T, message []byte) {
		for rest := message; len(rest) > 0; {
			kind, k, datagram, after, err := parseRecord(rest)
			if err != nil {
				return
			}
			again, k2, datagram2, _, err := parseRecord(appendRecord(nil, kind, k, datagram))
			if err != nil || again != kind || k2 != k || !bytes.Equal(datagram, datagram2) {
				t.Fatalf("%v %v became %v %v: %v", kind, k, again, k2, err)
			}
			rest = after
		}
	})
}
