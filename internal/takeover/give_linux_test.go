package takeover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// fakeGiver is an old process.
type fakeGiver struct {
	*recorder
	t       *testing.T
	sockets []Socket
	keys    []Key
	older   map[*Link][]Key
	link    *Link
	state   string

	suspendErr          error
	suspended           atomic.Bool
	resumed             bool
	killed              bool // the new process
	killedFirst         bool // before Resume
	handedOver, dropped bool
	change              func() // at Suspend
}

func (g *fakeGiver) Shared() ([]Socket, error) {
	shared := slices.Clone(g.sockets)
	for i := range shared {
		file, err := os.Open(os.DevNull)
		relaytest.Check(g.t, err)
		shared[i].File = file
	}
	return shared, nil
}

func (g *fakeGiver) Suspend(context.Context) error {
	g.suspended.Store(g.suspendErr == nil)
	if g.change != nil {
		g.change()
	}
	return g.suspendErr
}

func (g *fakeGiver) State() []byte { return []byte(g.state) }

func (g *fakeGiver) HandOver(l *Link) []Key {
	g.handedOver, g.link = true, l
	return g.keys
}

func (g *fakeGiver) Elsewhere() map[*Link][]Key { return g.older }
func (g *fakeGiver) HandedOver()                { g.dropped = true }
func (g *fakeGiver) Resume()                    { g.resumed, g.killedFirst = true, g.killed }

// fakeTaker is a new process.
type fakeTaker struct {
	*recorder
	state     string
	keys      map[*Link][]Key
	links     []*Link
	began     bool
	atBegin   func()
	followErr error
}

func (f *fakeTaker) Restore(state []byte) { f.state = string(state) }

func (f *fakeTaker) Follow(l *Link, keys []Key) error {
	if f.keys == nil {
		f.keys = make(map[*Link][]Key)
	}
	f.keys[l], f.links = keys, append(f.links, l)
	return f.followErr
}

func (f *fakeTaker) Begin() {
	f.began = true
	if f.atBegin != nil {
		f.atBegin()
	}
}

var quick = Timeouts{Ready: relaytest.Limit, Step: relaytest.Limit}

// conversation runs Give in one goroutine and new in the calling one, and returns the
// result of Give.
func conversation(t *testing.T, g *fakeGiver, limits Timeouts, new func(c *Conn)) error {
	t.Helper()
	near, file, err := NewConns()
	relaytest.Check(t, err)
	far, err := ConnOf(file)
	relaytest.Check(t, err)
	defer near.Close()
	result := make(chan error, 1)
	go func() { result <- Give(near, Hello{PID: 7, PIDFile: "pid"}, g, limits, func() { g.killed = true }) }()
	new(far)
	err = relaytest.Receive(t, "the end of Give", result)
	far.Close()
	if g.link != nil {
		t.Cleanup(func() { g.link.Close(); g.link.running.Wait() })
	}
	return err
}

func newGiver(t *testing.T) *fakeGiver {
	g := &fakeGiver{t: t, recorder: newRecorder(), keys: []Key{keyOf(1), keyOf(2)}, state: "state"}
	for i := range 600 { // more than one message can carry
		g.sockets = append(g.sockets, Socket{Network: []string{"tcp", "udp"}[i%2], At: netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(1+i)), Listening: i != 5})
	}
	return g
}

func receive(t *testing.T, c *Conn) *Offer {
	t.Helper()
	offer, err := Receive(c, relaytest.Limit)
	relaytest.Check(t, err)
	closeAll(offer.Sockets)
	return offer
}

func TestTakeover(t *testing.T) {
	relaytest.NoLeaks(t)
	g := newGiver(t)
	older, oldest := newLinks(t)
	for i := range 1000 { // more than one message can carry
		g.keys = append(g.keys, keyOf(i))
	}
	g.state = strings.Repeat("state", 30_000)
	g.older = map[*Link][]Key{older: {keyOf(9)}}
	older.Start(g.recorder)
	atOldest := newRecorder()
	oldest.Start(atOldest)
	taker := &fakeTaker{recorder: newRecorder()}
	err := conversation(t, g, quick, func(c *Conn) {
		offer := receive(t, c)
		if offer.PID != 7 || offer.PIDFile != "pid" || len(offer.Sockets) != 600 || offer.Sockets[5].Listening || !offer.Sockets[4].Listening || offer.Sockets[599].At.Port() != 600 {
			t.Errorf("offer: %+v, %d sockets", offer.Hello, len(offer.Sockets))
		}
		if g.suspended.Load() {
			t.Error("the old process stopped before the new one was ready")
		}
		alone, err := offer.Take(taker)
		if alone || err != nil {
			t.Errorf("Take: %v, %v", alone, err)
		}
	})
	relaytest.Check(t, err)
	if !g.suspended.Load() || !g.handedOver || !g.dropped || g.resumed || !taker.began || taker.state != g.state {
		t.Errorf("resumed %v, dropped %v, taker began %v", g.resumed, g.dropped, taker.began)
	}
	if len(taker.links) != 2 || !slices.Equal(taker.keys[taker.links[0]], g.keys) || !slices.Equal(taker.keys[taker.links[1]], []Key{keyOf(9)}) {
		t.Fatalf("links %v with %v", taker.links, taker.keys)
	}
	defer func() {
		for _, l := range taker.links {
			l.Close()
			l.running.Wait()
		}
	}()
	taker.links[0].Send(keyOf(1), []byte("to old"))
	g.link.End(keyOf(2))
	taker.links[1].Send(keyOf(9), []byte("to oldest"))
	relaytest.Eventually(t, "the records of all links", func() bool {
		return len(g.list()) == 1 && len(taker.list()) == 1 && len(atOldest.list()) == 1
	})
}

// Whatever fails before the new process has taken the sockets, the old one continues,
// and the reason is reported.
func TestGiveFails(t *testing.T) {
	slowStart, slowStep := quick, quick
	slowStart.Ready, slowStep.Step = 50*time.Millisecond, 50*time.Millisecond
	ready := func(c *Conn) { _ = c.send(kindReady, nil) }
	until := func(t *testing.T, c *Conn, last kind) { // or until the old process gives up
		for {
			m, err := c.receive(time.Now().Add(relaytest.Limit))
			relaytest.Check(t, err)
			for _, file := range m.files {
				file.Close()
			}
			if m.kind == last || m.kind == kindAbort {
				return
			}
		}
	}
	for name, test := range map[string]struct {
		change  func(*fakeGiver)
		limits  Timeouts
		new     func(t *testing.T, c *Conn)
		want    string
		resumed bool
		killed  bool // it may not know that it must exit
	}{
		"exits":       {new: func(t *testing.T, c *Conn) { receive(t, c); c.Close() }, want: "exited before it was ready", killed: true},
		"exits early": {new: func(_ *testing.T, c *Conn) { c.Close() }, want: "", killed: true},
		"fails":       {new: func(t *testing.T, c *Conn) { receive(t, c).Fail(errors.New("no such port")) }, want: "new process failed: no such port"},
		"is slow":     {new: func(t *testing.T, c *Conn) { until(t, c, kindOffered) }, limits: slowStart, want: "not ready: the other process does not answer in time"},
		"is another":  {new: func(t *testing.T, c *Conn) { receive(t, c); _ = c.send('?', nil) }, want: `unexpected message "?"`},
		"not stopped": {new: func(t *testing.T, c *Conn) { receive(t, c); ready(c) }, change: func(g *fakeGiver) { g.suspendErr = errors.New("still busy") }, want: "still busy"},
		"reloaded":    {new: func(t *testing.T, c *Conn) { receive(t, c); ready(c) }, change: func(g *fakeGiver) { g.change = func() { g.sockets = g.sockets[1:] } }, want: "got another config", resumed: true},
		"dies at go":  {new: func(t *testing.T, c *Conn) { receive(t, c); ready(c); until(t, c, kindGo); c.Close() }, want: "not taken over: the other process has ended", resumed: true, killed: true},
		"slow at go":  {new: func(t *testing.T, c *Conn) { receive(t, c); ready(c); until(t, c, kindGo) }, limits: slowStep, want: "not taken over: the other process does not answer", resumed: true, killed: true},
		"reads nothing": {new: func(_ *testing.T, c *Conn) { ready(c) }, limits: slowStep, change: func(g *fakeGiver) {
			for i := range 50_000 { // more than the socket has room for
				g.keys = append(g.keys, keyOf(i))
			}
		}, want: "the other process does not read", resumed: true, killed: true},
		"reads nothing of the offer": {new: func(*testing.T, *Conn) {}, limits: slowStart, change: func(g *fakeGiver) {
			for range 4 {
				g.sockets = append(g.sockets, g.sockets...)
			}
		}, want: "the other process does not read", killed: true},
		"cannot follow": {new: func(t *testing.T, c *Conn) {
			if _, err := receive(t, c).Take(&fakeTaker{recorder: newRecorder(), followErr: errors.New("no socket")}); err == nil {
				t.Error("Take succeeded")
			}
		}, want: "not taken over: no socket", resumed: true},
	} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			limits := test.limits
			if limits == (Timeouts{}) {
				limits = quick
			}
			var g *fakeGiver
			var older, oldest *Link
			var err error
			for {
				g = newGiver(t)
				if test.change != nil {
					test.change(g)
				}
				older, oldest = newLinks(t)
				older.Start(g.recorder)
				g.older = map[*Link][]Key{older: {keyOf(9)}}
				err = conversation(t, g, limits, func(c *Conn) { test.new(t, c) })
				if limits == quick || err != nil && strings.Contains(err.Error(), test.want) && g.killed == test.killed {
					break
				}
				// A busy machine may have reached the limit before the step of this test.
				limits.Ready, limits.Step = min(2*limits.Ready, quick.Ready), min(2*limits.Step, quick.Step)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want it to contain %q", err, test.want)
			}
			if g.resumed != test.resumed || g.dropped {
				t.Errorf("resumed %v, dropped %v", g.resumed, g.dropped)
			}
			if g.killed != test.killed {
				t.Errorf("killed %v, want %v", g.killed, test.killed)
			}
			if name == "slow at go" && !g.killedFirst {
				t.Error("the old process took clients again while the new one could")
			}
			got := newRecorder() // the links to older processes run again
			oldest.Start(got)
			older.Send(keyOf(9), []byte("still"))
			relaytest.Eventually(t, "a datagram for an older process", func() bool { return len(got.list()) == 1 })
			select {
			case <-g.closed:
				t.Error("the clients of the old process were ended")
			default:
			}
		})
	}
}

// The new process learns that the old one has given up.
func TestTakeAborted(t *testing.T) {
	relaytest.NoLeaks(t)
	g := newGiver(t)
	g.suspendErr = errors.New("still busy")
	taker := &fakeTaker{recorder: newRecorder()}
	_ = conversation(t, g, quick, func(c *Conn) {
		if alone, err := receive(t, c).Take(taker); alone || err == nil || !strings.Contains(err.Error(), "given up: still busy") {
			t.Errorf("Take: %v, %v", alone, err)
		}
	})
	if taker.began {
		t.Error("the new process takes clients")
	}
}

// offered returns a conversation whose old process has offered its sockets, and the
// offer that the new one has received.
func offered(t *testing.T) (near, far *Conn, offer *Offer) {
	t.Helper()
	near, file, err := NewConns()
	relaytest.Check(t, err)
	far, err = ConnOf(file)
	relaytest.Check(t, err)
	_, err = near.offer(Hello{}, newGiver(t))
	relaytest.Check(t, err)
	return near, far, receive(t, far)
}

// A new process takes the sockets of an old one that was killed.
func TestTakeAlone(t *testing.T) {
	relaytest.NoLeaks(t)
	near, far, offer := offered(t)
	defer far.Close()
	near.Close()
	taker := &fakeTaker{recorder: newRecorder()}
	if alone, err := offer.Take(taker); !alone || err != nil || !taker.began {
		t.Errorf("Take: %v, %v; began: %v", alone, err, taker.began)
	}
}

// Whenever an old process is killed, the new one takes the sockets. If it has given up
// instead, the new one does not, whatever it has or has not read.
func TestTakeFromClosed(t *testing.T) {
	for name, test := range map[string]struct {
		sends  []kind // after the offer
		unread bool   // the old process has not read what the new one has sent
		late   bool   // it is closed when the new one begins
		began  bool
		want   string // error; "": the new process is alone
	}{
		"killed with ready unread":   {unread: true, began: true},
		"killed after go":            {sends: []kind{kindGo}, began: true},
		"killed before taken":        {sends: []kind{kindGo}, late: true, began: true},
		"given up":                   {sends: []kind{kindAbort}, want: "given up"},
		"given up with ready unread": {sends: []kind{kindAbort}, unread: true, want: "given up"},
		"given up after go":          {sends: []kind{kindGo, kindAbort}, began: true, want: "given up"},
	} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			near, far, offer := offered(t)
			defer far.Close()
			if test.unread {
				relaytest.Check(t, far.send(kindReady, nil))
			}
			for _, k := range test.sends {
				relaytest.Check(t, near.send(k, "the reason"))
			}
			taker := &fakeTaker{recorder: newRecorder()}
			if test.late {
				taker.atBegin = near.Close
			} else {
				near.Close()
			}
			alone, err := offer.Take(taker)
			if alone != (test.want == "") || taker.began != test.began {
				t.Errorf("alone %v, began %v", alone, taker.began)
			}
			if got := fmt.Sprint(err); (err == nil) != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// Another version of the conversation is refused.
func TestReceiveOtherVersion(t *testing.T) {
	relaytest.NoLeaks(t)
	near, file, err := NewConns()
	relaytest.Check(t, err)
	far, err := ConnOf(file)
	relaytest.Check(t, err)
	defer far.Close()
	defer near.Close()
	relaytest.Check(t, near.send(kindHello, Hello{Protocol: protocol + 1}))
	if _, err := Receive(far, relaytest.Limit); err == nil || !strings.Contains(err.Error(), "restart instead") {
		t.Errorf("error %v", err)
	}
}
