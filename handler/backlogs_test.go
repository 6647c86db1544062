package handler

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
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
		held := func() (numbers []string) {
			for _, r := range rigs {
				for _, s := range r.service.sessions.all() {
					s.lock()
					for _, text := range s.backlog.texts() {
						numbers = append(numbers, strings.TrimSuffix(text, pad))
					}
					s.unlock()
				}
			}
			slices.Sort(numbers)
			return numbers
		}
		random := rand.New(rand.NewPCG(5, 6))
		var sent []string
		for i := range 300 {
			number := fmt.Sprintf("%03d", i)
			rigs[random.IntN(2)].deliver(i/8+random.IntN(3), new(udpClient), number+pad) // new sessions, and old ones again
			sent = append(sent, number)
			time.Sleep(time.Millisecond)
			b.wantHeld(t, rigs[0].service, rigs[1].service)
			if b.Held() > b.limit {
				t.Fatalf("%d bytes held", b.Held())
			}
			if got := held(); len(got) < min(len(sent), 12) || !slices.Equal(got, sent[len(sent)-len(got):]) {
				t.Fatalf("after %s: holds %q, want the latest", number, got)
			}
		}
		want, dropped := held(), 0
		close(found)
		synctest.Wait()
		var got []string
		for service, r := range rigs {
			for _, line := range r.engine.lines {
				if _, text, ok := strings.Cut(line, " < "); ok {
					got = append(got, strings.TrimSuffix(text, pad))
				}
			}
			n := int(r.service.floods.total(backlogsFull))
			if n == 0 || len(r.lines("datagrams dropped, backlog limit reached")) != 1 {
				t.Errorf("service %d: %d dropped:\n%s", service, n, r.transcript())
			}
			dropped += n
		}
		slices.Sort(got)
		if !slices.Equal(got, want) || dropped != len(sent)-len(want) {
			t.Errorf("%d dropped; sent to the backends: %q, want %q", dropped, got, want)
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
