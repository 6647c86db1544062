package stream

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestNewEngine(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "splice, engine")
	if engine := NewEngine(nil); engine != nil {
		t.Errorf("got %T although engines are disabled", engine)
	}
	t.Setenv("RELAY_DISABLE", "")
	engine, ok := NewEngine(nil).(*loops)
	if want := (runtime.GOMAXPROCS(0) + loopWorkers - 1) / loopWorkers; !ok || len(engine.all) != want {
		t.Errorf("got %+v, want %d loops", engine, want)
	}
}

// A client whose descriptor is not available gets no mover, and is unchanged.
func TestClientThatCannotBeDetached(t *testing.T) {
	relaytest.NoLeaks(t)
	for name, detach := range map[string]Detacher{
		"not a plain socket": nil,
		"no descriptor":      detachFunc(func() (int, error) { return -1, unix.EMFILE }),
	} {
		near, far := tcpPair(t, 0)
		client := plainClient(far)
		client.Detacher = detach
		if m := oneLoop(t).NewMover(client, newRecorder(t), NewWheel(longIdle)); m != nil {
			t.Errorf("%s: got a mover", name)
		}
		say(t, near, "question")
		hear(t, far, "question")
	}
}

// countedRun counts the ends of a loop's runs.
type countedRun struct {
	loopRun
	ended *atomic.Int32
}

func (r *countedRun) End() {
	r.loopRun.End()
	r.ended.Add(1)
}

// Relays begin and end while their loop stops and starts: all are served, and in
// the end nothing runs.
func TestLoopStopsAndStarts(t *testing.T) {
	relaytest.NoLeaks(t)
	const workers = 3
	engine := sharedLoop(t, workers)
	l := engine.all[0]
	var started, ended atomic.Int32
	l.poller = netio.NewPoller(workers, nil, func() (netio.Run[member], error) {
		started.Add(1)
		return &countedRun{*l.newRun(), &ended}, nil
	})
	l.poller.AlwaysHelp()
	for round := range 60 {
		var rigs [4]*loopRig
		for n := range rigs {
			rigs[n] = newLoopRig(t, engine, setup{})
		}
		for _, r := range rigs {
			say(t, r.backend, "hello")
			hear(t, r.client, "hello")
			resetNow(t, r.client)
		}
		for _, r := range rigs {
			r.wantEnd(ClientReset, 0, 5)
		}
		if n := l.poller.Owners(); n != 0 {
			t.Errorf("%d relays are on the loop after their end", n)
		}
		switch round % 3 {
		case 1:
			l.poller.StopIfIdle()
		case 2: // while the next relays begin
			stopping := async(l.poller.StopIfIdle)
			t.Cleanup(stopping)
		}
	}
	l.poller.StopIfIdle()
	relaytest.Eventually(t, "the loop to stop", func() bool { return started.Load() == ended.Load() })
	r := newLoopRig(t, engine, setup{})
	say(t, r.backend, "hello")
	hear(t, r.client, "hello")
	if n := started.Load() - ended.Load(); n < 1 || n > workers {
		t.Errorf("%d runs of one loop", n)
	}
}

// A bulk flow that never runs dry leaves the other relays of its loop their turns.
func TestBulkStarvesNoRelay(t *testing.T) {
	for name, disable := range map[string]string{"spliced": "", "copied": "splice"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", disable)
			forEachLoop(t, func(t *testing.T, engine *loops) { testBulkStarvesNoRelay(t, engine) })
		})
	}
}

func testBulkStarvesNoRelay(t *testing.T, engine *loops) {
	stop := make(chan struct{})
	for range 2 {
		bulk := newLoopRig(t, engine, setup{})
		sending := async(func() { // ends when stop is closed
			piece := make([]byte, 1<<20)
			for {
				select {
				case <-stop:
					_ = bulk.client.CloseWrite()
					return
				default:
					_, _ = bulk.client.Write(piece)
				}
			}
		})
		reading := async(func() { _, _ = io.Copy(io.Discard, bulk.backend) }) // ends with the flow
		defer func() { sending(); reading() }()
		relaytest.Eventually(t, "the bulk", func() bool { return bulk.up.Load() > 1<<20 })
	}
	defer close(stop)
	r := newLoopRig(t, engine, setup{})
	for range 300 {
		say(t, r.client, "question")
		hear(t, r.backend, "question")
		say(t, r.backend, "answer")
		hear(t, r.client, "answer")
	}
}

// sharedRules are the rules of many relays.
type sharedRules struct{ *recorder }

func (r sharedRules) Ended(end End) { r.ended <- end }

// Thousands of idle relays cost no goroutine, no buffer and little memory, and
// leave nothing behind.
func TestManyIdleRelays(t *testing.T) {
	relays := min(5000, descriptorLimit(t)/5)
	if testing.Short() {
		relays = 500
	}
	relaytest.NoLeaks(t)
	backends := listen(t, "127.0.0.1:0")
	clients := listen(t, "127.0.0.2:0")
	engine, wheel, rules := oneLoop(t), NewWheel(longIdle), newRecorder(t)
	rules.ended = make(chan End, relays+1)
	var ends []net.Conn
	connect := func() {
		near, err := net.Dial("tcp", clients.Addr().String())
		relaytest.Check(t, err)
		far, err := clients.Accept()
		relaytest.Check(t, err)
		m := engine.NewMover(plainClient(far.(*net.TCPConn)), sharedRules{rules}, wheel)
		backend, err := net.Dial("tcp", backends.Addr().String())
		relaytest.Check(t, err)
		m.Carry(backend, rules.totals())
		accepted, err := backends.Accept()
		relaytest.Check(t, err)
		say(t, near, "hello")
		hear(t, accepted, "hello")
		say(t, accepted, "hello")
		hear(t, near, "hello")
		ends = append(ends, near, accepted)
	}
	connect() // and so start the loop
	goroutines, files, memory := runtime.NumGoroutine(), descriptors(t), memoryInUse()
	_, pipes := openFiles(t)
	for range relays {
		connect()
	}
	if more := runtime.NumGoroutine() - goroutines; more > relays/100 {
		t.Errorf("%d more goroutines", more)
	}
	each := (memoryInUse() - memory) / int64(relays)
	t.Logf("%d relays, %d bytes each, the test's two connections included", relays, each)
	if each > 8<<10 {
		t.Errorf("%d bytes per relay", each)
	}
	if more := descriptors(t) - files; more != 4*relays {
		t.Errorf("%d descriptors for %d relays and their peers", more, relays)
	}
	if n := engine.all[0].poller.Owners(); n != relays+1 || wheel.size() != relays+1 {
		t.Errorf("%d relays are on the loop and %d in the wheel", n, wheel.size())
	}
	if _, now := openFiles(t); now > pipes {
		t.Errorf("%d descriptors of pipes are open", now-pipes)
	}
	for _, conn := range ends {
		relaytest.Check(t, conn.Close())
	}
	for range relays + 1 {
		if end := relaytest.Receive(t, "the end of all", rules.ended); end.BytesUp != 5 || end.BytesDown != 5 {
			t.Errorf("ended as %+v", end)
		}
	}
	if n := engine.all[0].poller.Owners(); n != 0 || wheel.size() != 0 {
		t.Errorf("%d relays are on the loop and %d in the wheel after their end", n, wheel.size())
	}
	relaytest.Eventually(t, "all descriptors to be closed", func() bool { return descriptors(t) < files })
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	relaytest.Check(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

// size returns how many relays are in the wheel.
func (w *Wheel) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// descriptorLimit returns how many descriptors this process may have.
func descriptorLimit(t testing.TB) int {
	t.Helper()
	var limit unix.Rlimit
	relaytest.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	return int(min(limit.Cur, 1<<30))
}

// memoryInUse returns the memory in use after a garbage collection.
func memoryInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
