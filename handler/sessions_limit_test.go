package handler

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

func TestUDPSessionLimit(t *testing.T) {
	limitTo := func(n int) func(*Options) { return func(o *Options) { o.MaxUDPSessions = n } }
	// clientsOf lists the clients, of the first n, that have a session.
	clientsOf := func(r *udpRig, n int) string {
		var b strings.Builder
		for i := range n {
			if r.session(i) != nil {
				fmt.Fprintf(&b, "%d ", i)
			}
		}
		return strings.TrimSpace(b.String())
	}
	t.Run("the longest-idle session is evicted, also one with an answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"}, limitTo(8))
			clients := make([]udpClient, 12)
			deliver := func(i int) { r.deliver(i, &clients[i], "a"); time.Sleep(time.Millisecond) }
			answer := func(i int) { r.session(i).socket.Datagrams([][]byte{[]byte("A")}); time.Sleep(time.Millisecond) }
			for i := range 8 {
				deliver(i)
				if i != 6 { // waits for its answer
					answer(i)
				}
			}
			deliver(0) // was idle longest
			deliver(8) // evicts 1
			if got := clientsOf(r, 12); got != "0 2 3 4 5 6 7 8" {
				t.Fatalf("clients with a session: %s", got)
			}
			clients[1].wantReleased(t, 1)
			time.Sleep(silentFor)
			deliver(9) // evicts 6, which has been silent for a second and had no answer
			if got := clientsOf(r, 12); got != "0 2 3 4 5 7 8 9" {
				t.Fatalf("clients with a session: %s", got)
			}
			answer(9)
			deliver(8)  // has no answer, but is not silent
			deliver(10) // evicts 2
			if got := clientsOf(r, 12); got != "0 3 4 5 7 8 9 10" {
				t.Fatalf("clients with a session: %s", got)
			}
		})
	})
	t.Run("in a flood, sessions without an answer are evicted first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = 16
			r := newUDPRig(t, []string{"192.0.2.1:53"}, limitTo(n))
			r.engine.quiet = true
			deliver := func(i int) { r.deliver(i, new(udpClient), "a"); time.Sleep(time.Millisecond) }
			for i := range n {
				deliver(i)
				r.session(i).socket.Datagrams([][]byte{[]byte("A")})
			}
			for i := range 100 { // evicts 0 to 4, which makes room for more than a quarter of the table
				deliver(n + i)
			}
			if got := clientsOf(r, n); got != "5 6 7 8 9 10 11 12 13 14 15" {
				t.Fatalf("clients with a session after a flood: %s", got)
			}
			if got := clientsOf(r, n+100); !strings.HasSuffix(got, " 15 111 112 113 114 115") {
				t.Fatalf("clients with a session after a flood: %s", got)
			}
		})
	})
	t.Run("exactly, after uses in random order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = 50
			r := newUDPRig(t, []string{"192.0.2.1:53"}, limitTo(n))
			r.engine.quiet = true
			random := rand.New(rand.NewPCG(1, 2))
			type use struct {
				at       time.Time
				answered bool
			}
			used := make(map[int]use)
			// victim returns the client whose session is evicted.
			victim := func() int {
				oldest := func(answered bool) int {
					client := -1
					for i, u := range used {
						if u.answered == answered && (client < 0 || u.at.Before(used[client].at)) {
							client = i
						}
					}
					return client
				}
				unanswered := 0
				for _, u := range used {
					if !u.answered {
						unanswered++
					}
				}
				waiting, served := oldest(false), oldest(true)
				switch {
				case served < 0:
					return waiting
				case waiting < 0:
					return served
				case unanswered*4 > n, time.Since(used[waiting].at) >= silentFor, used[waiting].at.Before(used[served].at):
					return waiting
				default:
					return served
				}
			}
			for next := range 6000 {
				time.Sleep(time.Millisecond)
				if len(used) < n || random.IntN(8) == 0 { // a new client
					if len(used) == n {
						delete(used, victim())
					}
					r.deliver(next, new(udpClient), "a")
					used[next] = use{at: time.Now()}
				} else { // a known client: an answer or a datagram from it
					for i, u := range used {
						s := r.session(i)
						if random.IntN(3) > 0 {
							s.socket.Datagrams([][]byte{[]byte("A")})
							u.answered = true
						} else {
							r.deliver(i, s.replier.Replier, "a")
						}
						u.at = time.Now()
						used[i] = u
						break
					}
				}
				for i := range used {
					if r.session(i) == nil {
						t.Fatalf("step %d: the session of client %d was evicted", next, i)
					}
				}
				r.wantSessions(len(used))
			}
		})
	})
	t.Run("a full table costs no client its first answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n, inFlight = 400, 64
			r := newUDPRig(t, []string{"192.0.2.1:53"}, limitTo(n))
			r.engine.quiet = true
			clients := make([]udpClient, 5000)
			for i := range clients {
				r.deliver(i, &clients[i], "a")
				time.Sleep(time.Millisecond)
				if oldest := i - inFlight; oldest >= 0 {
					s := r.session(oldest)
					if s == nil {
						t.Fatalf("the session of client %d was evicted before its first answer", oldest)
					}
					s.socket.Datagrams([][]byte{[]byte("A")})
					clients[oldest].wants(t, "A")
				}
			}
		})
	})
	t.Run("a flood costs neither new nor established clients their answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// 100,000 sources a second, beside backends that answer after 20 ms.
			const table, perMillisecond, sources, roundTrip, established = 10_000, 100, 200_000, 20, 100
			r := newUDPRig(t, []string{"192.0.2.1:53"}, limitTo(table), func(o *Options) {
				o.Log = o.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))
			})
			r.engine.quiet = true
			answer := func(n int) {
				s := r.session(n)
				if s == nil {
					t.Fatalf("the session of client %d was evicted", n)
				}
				s.socket.Datagrams([][]byte{[]byte("A")})
			}
			first, last := sources, sources+established
			clients := make(map[int]*udpClient)
			ask := func(n int) {
				if clients[n] == nil {
					clients[n] = new(udpClient)
				}
				r.deliver(n, clients[n], "a")
			}
			for n := first; n < last; n++ {
				ask(n)
				answer(n)
				clients[n].wants(t, "A")
			}
			spoofed := new(udpClient)
			for step := range sources / perMillisecond {
				for i := range perMillisecond {
					r.deliver(step*perMillisecond+i, spoofed, "flood")
				}
				ask(first + step%established) // an established client
				ask(last + step)              // a new one
				time.Sleep(time.Millisecond)
				if step >= roundTrip {
					for _, n := range []int{first + (step-roundTrip)%established, last + step - roundTrip} {
						answer(n)
						clients[n].wants(t, "A")
					}
				}
			}
			r.wantSessions(table)
		})
	})
	t.Run("evictions are logged once per second, with a count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"}, limitTo(1))
			for i := range 100 {
				r.deliver(i, new(udpClient), "a")
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			lines := r.lines("session evicted")
			if len(lines) != 2 || lines[0].ContextMap()["count"] != uint64(1) || lines[1].ContextMap()["count"] != uint64(98) {
				t.Fatal(r.transcript())
			}
		})
	})
	t.Run("a flood of clients does not grow the table or the memory", func(t *testing.T) {
		const limit, keys = 1000, 200_000
		r := newUDPRig(t, []string{"192.0.2.1:53"}, limitTo(limit), func(o *Options) {
			o.Log = o.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))
		})
		r.engine.quiet = true
		client := &udpClient{}
		heap := func() int64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		var before int64
		for i := range keys {
			if i == keys/10 {
				before = heap()
			}
			r.deliver(i, client, "a")
		}
		if grown := heap() - before; grown > 1<<20 {
			t.Errorf("the heap grew by %d bytes for the same number of sessions", grown)
		}
		r.wantSessions(limit)
		open, most := r.engine.sockets()
		if open != limit || most > limit {
			t.Errorf("%d sockets, at most %d at once, want %d", open, most, limit)
		}
		if got := r.service.floods.total(evicted); got != keys-limit {
			t.Errorf("%d evictions counted, want %d", got, keys-limit)
		}
	})
}
