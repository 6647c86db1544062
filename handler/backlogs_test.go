package handler

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// withBacklogs returns an edit of the options that sets the bound of backlogs.
func withBacklogs(b *Backlogs) func(*Options) { return func(o *Options) { o.Backlogs = b } }

// sum returns what the sessions of some services hold.
func sum(services ...*Service) (held int64) {
	for _, service := range services {
		for _, s := range service.sessions.all() {
			s.lock()
			held += int64(s.backlog.held)
			s.unlock()
		}
	}
	return held
}

// listed returns the number of sessions in the shards.
func (b *Backlogs) listed() (n int) {
	for i := range b.shards {
		b.shards[i].mu.Lock()
		n += len(b.shards[i].sessions)
		b.shards[i].mu.Unlock()
	}
	return n
}

// wantHeld checks that the counted memory is what the sessions hold.
func (b *Backlogs) wantHeld(t *testing.T, services ...*Service) {
	t.Helper()
	if got, want := b.Held(), sum(services...); got != want {
		t.Fatalf("%d bytes counted, the sessions hold %d", got, want)
	}
}

// heapAndStacks returns the memory in use after a garbage collection.
func heapAndStacks() int64 {
	runtime.GC()
	runtime.GC() // also what finalizers and pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// Sessions at a hanging name hold no more than the limit, whatever they receive.
func TestBacklogsMemory(t *testing.T) {
	b := NewBacklogs(BacklogLimit)
	r := newUDPRig(t, []string{"hangs.example:53"}, withBacklogs(b))
	r.resolver.set("hangs.example", hangAnswer)
	before := heapAndStacks()
	big := make([]byte, 64_000)
	for range 16 {
		for n := range 800 {
			r.relay.Deliver(udpKey(n), [][]byte{big}, new(udpClient))
		}
	}
	if held := b.Held(); held > BacklogLimit || held < BacklogLimit*9/10 {
		t.Errorf("%d MiB counted", held>>20)
	}
	if grown := heapAndStacks() - before; grown > BacklogLimit+8<<20 {
		t.Errorf("%d MiB used", grown>>20)
	}
	b.wantHeld(t, r.service)
	if held, dropped := b.Held()/(64<<10), r.service.floods.total(backlogsFull); dropped != 800*16-uint64(held) {
		t.Errorf("%d datagrams dropped, %d held", dropped, held)
	}
	r.service.Close()
	if b.Held() != 0 || b.listed() != 0 {
		t.Errorf("%d bytes and %d sessions counted after the end", b.Held(), b.listed())
	}
}

// A session with one small datagram costs little, and neither a goroutine nor a
// timer while its name is looked up.
func TestBacklogsSmallSessions(t *testing.T) {
	const sessions = 5000
	r := newUDPRig(t, []string{"hangs.example:53"})
	r.resolver.set("hangs.example", hangAnswer)
	memory, goroutines := heapAndStacks(), runtime.NumGoroutine()
	for n := range sessions {
		r.deliver(n, new(udpClient), "a small datagram")
	}
	relaytest.Eventually(t, "the lookup", func() bool { return len(r.resolver.callsFor("hangs.example")) == 1 })
	if more := runtime.NumGoroutine() - goroutines; more > 3 {
		t.Errorf("%d goroutines for %d sessions", more, sessions)
	}
	if each := (heapAndStacks() - memory) / sessions; each > 1800 {
		t.Errorf("%d bytes for each session", each)
	}
}

// Two services share the limit: the oldest datagrams of both are dropped first, and
// counted and logged by the service that loses them.
func TestBacklogsOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBacklogs(16 * (1024 + slotBytes))
		var rigs []*udpRig
		found := make(chan bool)
		for range 2 {
			r := newUDPRig(t, []string{"a.example:53"}, withBacklogs(b))
			r.resolver.set("a.example", waitAnswer(found, "192.0.2.1"))
			rigs = append(rigs, r)
		}
		pad := strings.Repeat(".", 1000)
		random := rand.New(rand.NewPCG(5, 6))
		var sent []string // the datagrams in order, as service/session/number
		for i := range 60 {
			service, n := random.IntN(2), random.IntN(4)
			name := fmt.Sprintf("%d/%d/%d", service, n, i)
			rigs[service].deliver(n, new(udpClient), name+pad)
			sent = append(sent, name)
			time.Sleep(time.Millisecond)
			b.wantHeld(t, rigs[0].service, rigs[1].service)
			if b.Held() > b.limit {
				t.Fatalf("%d bytes held", b.Held())
			}
		}
		dropped := 0
		for _, r := range rigs {
			dropped += int(r.service.floods.total(backlogsFull))
		}
		close(found)
		synctest.Wait()
		var got []string
		for service, r := range rigs {
			for _, line := range r.engine.lines {
				if _, text, ok := strings.Cut(line, " < "); ok {
					got = append(got, strings.TrimSuffix(text, pad))
				}
			}
			if n := int(r.service.floods.total(backlogsFull)); n == 0 || len(r.lines("datagrams dropped, backlog limit reached")) == 0 {
				t.Errorf("service %d: %d drops, and no line", service, n)
			}
		}
		number := func(name string) (i int) {
			_, err := fmt.Sscanf(name[strings.LastIndex(name, "/")+1:], "%d", &i)
			relaytest.Check(t, err)
			return i
		}
		slices.SortFunc(got, func(a, b string) int { return number(a) - number(b) })
		if want := sent[dropped:]; len(got) < 12 || !slices.Equal(got, want) {
			t.Errorf("%d dropped; sent to the backends: %q, want the latest: %q", dropped, got, want)
		}
		for _, r := range rigs {
			r.service.Close()
		}
		if b.Held() != 0 || b.listed() != 0 {
			t.Errorf("%d bytes and %d sessions counted after the end", b.Held(), b.listed())
		}
	})
}

// Answered sessions keep memory for the next datagram. It is taken before any
// datagram is dropped, and not kept while more than half of the limit is in use.
func TestBacklogsSpareMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBacklogs(64 << 10)
		r := newUDPRig(t, []string{"192.0.2.1:53"}, withBacklogs(b))
		kib := strings.Repeat("x", 1<<10)
		for n := range 20 {
			r.deliver(n, new(udpClient), kib)
			r.engine.socket(n + 1).answer("A")
		}
		if got := b.Held(); got != 20*(1024+slotBytes) {
			t.Fatalf("%d bytes held by answered sessions", got)
		}
		hangs := newUDPRig(t, []string{"hangs.example:53"}, withBacklogs(b))
		hangs.resolver.set("hangs.example", hangAnswer)
		for range 62 {
			hangs.deliver(1, new(udpClient), kib)
		}
		if got := hangs.service.floods.total(backlogsFull); got != 0 {
			t.Errorf("%d datagrams dropped for spare memory", got)
		}
		b.wantHeld(t, r.service, hangs.service)
		if sum(r.service) != 0 {
			t.Errorf("%d bytes of spare memory left", sum(r.service))
		}
		r.deliver(3, new(udpClient), kib)
		r.engine.socket(4).answer("A")
		if sum(r.service) != 0 {
			t.Errorf("%d bytes kept although more than half is in use", sum(r.service))
		}
	})
}

// The copy of a datagram that was sent is dropped without being counted. If its
// backend fails, only the remaining ones are sent again.
func TestBacklogsDropCopies(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"}, withBacklogs(NewBacklogs(2*(16+slotBytes))))
	client := new(udpClient)
	for i := range 4 {
		r.deliver(i, client, fmt.Sprintf("datagram %d", i))
	}
	r.engine.wants(t, "1 open 192.0.2.1:53", "1 < datagram 0", "2 open 192.0.2.1:53", "2 < datagram 1",
		"3 open 192.0.2.1:53", "3 < datagram 2", "4 open 192.0.2.1:53", "4 < datagram 3")
	if got := r.service.floods.total(backlogsFull); got != 0 {
		t.Errorf("%d datagrams counted as dropped, want 0", got)
	}
	for i := range 4 {
		r.engine.socket(i + 1).answer(fmt.Sprint("answer ", i))
	}
	client.wants(t, "answer 0", "answer 1", "answer 2", "answer 3")

	r.deliver(5, client, "datagram 4") // sent; then its copy is dropped
	r.deliver(6, client, "datagram 5")
	r.deliver(7, client, "datagram 6")
	r.engine.wants(t, "5 open 192.0.2.1:53", "5 < datagram 4", "6 open 192.0.2.1:53", "6 < datagram 5", "7 open 192.0.2.1:53", "7 < datagram 6")
	r.engine.onSend = func(s *fakeSocket, _ []byte) error {
		if s.number == 5 {
			return errRefused // of datagram 4
		}
		return nil
	}
	r.deliver(5, client, "datagram 7")
	r.engine.wants(t, "5 < datagram 7: read: connection refused", "5 close", "8 open 192.0.2.1:53", "8 < datagram 7")
	r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
}

// A session that lost all its datagrams opens no socket. Its next datagram begins
// a new round.
func TestBacklogsCancelRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBacklogs(16 + slotBytes)
		r := newUDPRig(t, []string{"a.example:53"}, withBacklogs(b))
		found := make(chan bool)
		r.resolver.set("a.example", waitAnswer(found, "192.0.2.1"))
		first := new(udpClient)
		r.deliver(1, first, "lost")
		time.Sleep(time.Millisecond)
		r.deliver(2, new(udpClient), "kept")
		close(found)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < kept")
		r.engine.socket(1).answer("KEPT")
		r.resolver.setCached("a.example", "192.0.2.1")
		r.deliver(1, first, "again")
		r.engine.wants(t, "2 open 192.0.2.1:53", "2 < again")
		r.engine.socket(2).answer("AGAIN")
		first.wants(t, "AGAIN")
		if got := r.service.floods.total(backlogsFull); got != 1 {
			t.Errorf("%d datagrams counted as dropped, want 1", got)
		}
		if up := r.service.Stats(time.Now()).Backends[0].Use[upstream.UDP].DatagramsUp; up != 2 {
			t.Errorf("%d datagrams counted as sent, want 2", up)
		}
	})
}

// Whatever happens to sessions of two services, the counted memory is what they
// hold, and within the limit.
func TestBacklogsCountProperty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(7, 8))
		b := NewBacklogs(256 << 10)
		var rigs []*udpRig
		for range 2 {
			r := newUDPRig(t, []string{"a.example:53", "192.0.2.2:53"}, withBacklogs(b), func(o *Options) {
				o.ConnectTimeout, o.IdleTimeout, o.UDPReplyTimeout, o.UDPResponses = 3*time.Second, 20*time.Second, 2*time.Second, random.IntN(2)
				o.MaxUDPSessions = 30
			})
			rigs = append(rigs, r)
		}
		answers := []answer{addrsAnswer("192.0.2.1", "192.0.2.11"), hangAnswer, hangAnswer, errorAnswer(errNoSuchHost)}
		for step := range 20_000 {
			r := rigs[random.IntN(2)]
			socket := func() *fakeSocket { // an open one, or nil
				if len(r.engine.all) == 0 {
					return nil
				}
				s := r.engine.all[max(0, len(r.engine.all)-1-random.IntN(40))]
				if s.closed {
					return nil
				}
				return s
			}
			switch op := random.IntN(100); {
			case op < 60:
				group := make([][]byte, 1+random.IntN(4))
				for i := range group {
					group[i] = make([]byte, random.IntN(1<<random.IntN(17)))
				}
				r.relay.Deliver(udpKey(random.IntN(40)), group, new(udpClient))
			case op < 75:
				if s := socket(); s != nil {
					s.answer("A")
				}
			case op < 80:
				if s := socket(); s != nil {
					s.sink.Failed(errRefused)
				}
			case op < 85:
				if s := r.session(random.IntN(40)); s != nil {
					s.end(evictedForRoom)
				}
			case op < 86:
				r.engine.onOpen = func(netip.AddrPort) error { panic("Open panics") }
				r.deliver(random.IntN(40), new(udpClient), "p")
				r.engine.onOpen = nil
			case op < 87:
				r.engine.onClose = func() { panic("Close panics") }
				if s := r.session(random.IntN(40)); s != nil {
					s.end(evictedForRoom)
				}
				r.engine.onClose = nil
			case op < 88:
				r.relay = New(r.service, r.relay.opts) // as at a reload
			case op < 93:
				r.resolver.set("a.example", answers[random.IntN(len(answers))])
			case op < 95:
				r.resolver.setCached("a.example", "192.0.2.1")
			case op < 99:
				time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
			default:
				time.Sleep(time.Duration(random.IntN(5000)) * time.Millisecond)
			}
			synctest.Wait()
			if step%4 == 0 {
				b.wantHeld(t, rigs[0].service, rigs[1].service)
			}
			if b.Held() > b.limit {
				t.Fatalf("step %d: %d bytes held", step, b.Held())
			}
		}
		if rigs[0].service.floods.total(backlogsFull) == 0 {
			t.Error("the limit was not reached")
		}
		rigs[0].service.Close()
		b.wantHeld(t, rigs[1].service)
		rigs[1].service.Close()
		if b.Held() != 0 || b.listed() != 0 {
			t.Errorf("%d bytes and %d sessions counted after the end", b.Held(), b.listed())
		}
	})
}

// Many goroutines that deliver and answer exceed the limit by no more than what
// they have just added.
func TestBacklogsConcurrent(t *testing.T) {
	const goroutines = 8
	b := NewBacklogs(1 << 20)
	rigs := []*udpRig{}
	for range 2 {
		r := newUDPRig(t, []string{"a.example:53"}, withBacklogs(b))
		r.resolver.set("a.example", hangAnswer)
		rigs = append(rigs, r)
	}
	rigs[1].resolver.setCached("a.example", "192.0.2.1")
	rigs[1].engine.quiet = true
	rigs[1].engine.onSend = func(s *fakeSocket, datagram []byte) error {
		if datagram[0]%2 == 0 {
			go s.answer("A")
		}
		return nil
	}
	var wait sync.WaitGroup
	for g := range goroutines {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(9, uint64(g)))
			for range 3000 {
				r := rigs[random.IntN(2)]
				datagram := make([]byte, 1+random.IntN(4000))
				datagram[0] = byte(random.IntN(256))
				n := random.IntN(200)
				r.relay.Deliver(udpKey(n), [][]byte{datagram}, new(udpClient))
				if random.IntN(20) == 0 {
					if s := r.session(n); s != nil {
						s.end(evictedForRoom)
					}
				}
				if held := b.Held(); held > b.limit+goroutines*(8<<10) {
					t.Errorf("%d bytes held", held)
					return
				}
			}
		})
	}
	wait.Wait()
	for _, r := range rigs {
		r.service.Close()
	}
	if b.Held() != 0 || b.listed() != 0 {
		t.Errorf("%d bytes and %d sessions counted after the end", b.Held(), b.listed())
	}
}
