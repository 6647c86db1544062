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

func TestUDPBound(t *testing.T) {
	bound := func(n int) func(*Options) { return func(o *Options) { o.MaxUDPSessions = n } }
	// who lists the clients that have a session.
	who := func(r *udpRig, of int) string {
		var b strings.Builder
		for i := range of {
			if r.session(i) != nil {
				fmt.Fprintf(&b, "%d ", i)
			}
		}
		return strings.TrimSpace(b.String())
	}
	t.Run("the longest idle that had no answer goes first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"}, bound(4))
			clients := make([]udpClient, 10)
			deliver := func(i int) { r.deliver(i, &clients[i], "a"); time.Sleep(time.Millisecond) }
			for i := range 4 {
				deliver(i)
			}
			r.engine.socket(1).answer("A") // to client 0, which is now in use longest ago but served
			r.engine.socket(3).answer("A") // to client 2
			time.Sleep(time.Millisecond)
			deliver(1)
			deliver(4) // evicts 3: 1 was used again
			if got := who(r, 10); got != "0 1 2 4" {
				t.Fatalf("left: %s", got)
			}
			clients[3].wantReleased(t, 1)
			deliver(5) // evicts 1
			deliver(6) // evicts 4
			if got := who(r, 10); got != "0 2 5 6" {
				t.Fatalf("left: %s", got)
			}
			r.engine.socket(6).answer("A")
			r.engine.socket(7).answer("A")
			deliver(0)
			deliver(7) // all were answered: the longest idle of all, 2
			if got := who(r, 10); got != "0 5 6 7" {
				t.Fatalf("left: %s", got)
			}
		})
	})
	t.Run("exactly, in whatever order they were used", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = 50
			r := newUDPRig(t, []string{"192.0.2.1:53"}, bound(n))
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
				} else { // an old one, either way
					for i, u := range used {
						s := r.session(i)
						if random.IntN(3) == 0 {
							s.flow.Datagrams([][]byte{[]byte("A")})
							u.answered = true
						} else {
							r.deliver(i, s.way.Replier, "a")
						}
						u.at = time.Now()
						used[i] = u
						break
					}
				}
				for i := range used {
					if r.session(i) == nil {
						t.Fatalf("step %d: the session of %d went", next, i)
					}
				}
				r.wantSessions(len(used))
			}
		})
	})
	t.Run("evictions are one line a second, with a count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"}, bound(1))
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
	t.Run("a flood of keys keeps the table and the memory at it", func(t *testing.T) {
		const limit, keys = 1000, 200_000
		r := newUDPRig(t, []string{"192.0.2.1:53"}, bound(limit), func(o *Options) {
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
			t.Errorf("%d bytes more for the same table", grown)
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

func TestUDPQueue(t *testing.T) {
	t.Run("64 datagrams wait, the next is dropped and counted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53"})
			found := make(chan bool)
			r.resolver.set("a.example", waitAnswer(found, "192.0.2.1"))
			want := []string{"1 open 192.0.2.1:53"}
			for i := range 70 {
				r.deliver(1, new(udpClient), fmt.Sprint(i))
				if i < 64 {
					want = append(want, fmt.Sprintf("1 < %d", i))
				}
			}
			if got := r.service.floods.total(queueFull); got != 6 {
				t.Fatalf("%d counted, want 6", got)
			}
			close(found)
			synctest.Wait()
			r.deliver(1, new(udpClient), "after")
			r.engine.wants(t, append(want, "1 < after")...)
		})
	})
	t.Run("or a mebibyte", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53"})
			r.resolver.set("a.example", hangAnswer)
			big := strings.Repeat("x", 60_000)
			for range 30 {
				r.deliver(1, new(udpClient), big)
			}
			if got := r.service.floods.total(queueFull); got != 30-(1<<20)/60_000 {
				t.Fatalf("%d counted", got)
			}
		})
	})
}
