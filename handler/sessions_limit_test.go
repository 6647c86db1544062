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
	t.Run("the longest-idle session without an answer is evicted first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"}, limitTo(4))
			clients := make([]udpClient, 10)
			deliver := func(i int) { r.deliver(i, &clients[i], "a"); time.Sleep(time.Millisecond) }
			for i := range 4 {
				deliver(i)
			}
			r.engine.socket(1).answer("A") // to client 0, which is idle longest but has an answer
			r.engine.socket(3).answer("A") // to client 2
			time.Sleep(time.Millisecond)
			deliver(1)
			deliver(4) // evicts 3: 1 was used again
			if got := clientsOf(r, 10); got != "0 1 2 4" {
				t.Fatalf("clients with a session: %s", got)
			}
			clients[3].wantReleased(t, 1)
			deliver(5) // evicts 1
			deliver(6) // evicts 4
			if got := clientsOf(r, 10); got != "0 2 5 6" {
				t.Fatalf("clients with a session: %s", got)
			}
			r.engine.socket(6).answer("A")
			r.engine.socket(7).answer("A")
			deliver(0)
			deliver(7) // all have an answer: evicts the longest-idle one, 2
			if got := clientsOf(r, 10); got != "0 5 6 7" {
				t.Fatalf("clients with a session: %s", got)
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
			for next := range 3000 {
				time.Sleep(time.Microsecond)
				if len(used) < n || random.IntN(4) == 0 { // a new client
					if len(used) == n {
						victim := -1
						for i, u := range used {
							v := used[victim]
							if victim < 0 || !u.answered && v.answered || u.answered == v.answered && u.at.Before(v.at) {
								victim = i
							}
						}
						delete(used, victim)
					}
					r.deliver(next, new(udpClient), "a")
					used[next] = use{at: time.Now()}
				} else { // a known client: an answer or a datagram from it
					for i, u := range used {
						s := r.session(i)
						if random.IntN(3) == 0 {
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
