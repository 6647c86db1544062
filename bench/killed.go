//go:build linux

package main

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The backends of the rows of this file: echo servers, each in a process of its
// own that kills itself with SIGKILL on request and is then started again.
const (
	killedPair   = "two backends that are killed in turn"
	killedSingle = "one backend that is killed"
)

func killedRows() []row {
	const kills, gap = 20, 5 * time.Second
	failed := []metric{
		single("failed", fmt.Sprintf("requests failed in %d kills", kills), false),
		single("slowest", "ms, slowest request that was served", false),
		single("rate", "requests/s", false),
	}
	refused := []metric{
		single("refused", "clients refused", false),
		single("wait", "ms from the recovery to the answer, slowest held client", false),
	}
	killed := job{Kind: "kills", Count: 64, Size: 100, Kills: kills, Gap: 300 * time.Millisecond}
	rows := []row{
		{name: "The serving backend is killed under 64 clients, `rescue 16KiB`", backends: killedPair, metrics: failed, job: killed,
			relay: object{"rescue": 16 << 10}},
		{name: "The same without `rescue`", backends: killedPair, metrics: failed, job: killed, relayOnly: true},
		{name: "The only backend is away for 5 s, `hold 15s`", backends: killedSingle, metrics: refused,
			job: job{Kind: "gap", Size: 100, Gap: gap}, relay: object{"hold": "15s"}},
	}
	for i := range rows {
		rows[i].group, rows[i].network, rows[i].slow = failover, "tcp", true
	}
	return rows
}

// request opens a connection, makes one request and returns the number of the
// backend that answered.
func request(addr string, size int) (backend int, err error) {
	conn, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, size)
	if err := trip(conn, buf); err != nil {
		return 0, err
	}
	return int(buf[0] - '0'), nil
}

// longest is the maximum of durations.
type longest struct{ atomic.Int64 }

func (l *longest) add(d time.Duration) {
	for {
		before := l.Load()
		if int64(d) <= before || l.CompareAndSwap(before, int64(d)) {
			return
		}
	}
}

func (l *longest) milliseconds() float64 { return float64(l.Load()) / 1e6 }

// requestsUnderKills makes requests, each client one after the other, and kills the
// backend that answered last, again and again. Each time, the other backend is up.
func requestsUnderKills(j job) (values, error) {
	var served, failed atomic.Int64
	var last atomic.Int32
	var slowest longest
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for range j.Count {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				start := time.Now()
				backend, err := request(j.Addr, j.Size)
				if err != nil {
					failed.Add(1)
					time.Sleep(10 * time.Millisecond)
					continue
				}
				slowest.add(time.Since(start))
				served.Add(1)
				last.Store(int32(backend))
			}
		})
	}
	began := time.Now()
	kill := func() error {
		for _, addr := range j.Backends {
			if err := waitServing(addr); err != nil {
				return err
			}
		}
		time.Sleep(300 * time.Millisecond) // until the checks of a peer have noticed that both are up
		return killBackend(j.Backends[last.Load()])
	}
	var err error
	for i := 0; i < j.Kills && err == nil; i++ {
		err = kill()
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	took := time.Since(began)
	workers.Wait()
	return values{"failed": float64(failed.Load()), "slowest": slowest.milliseconds(), "rate": float64(served.Load()) / took.Seconds()}, err
}

// connectThroughGap starts a client every 20 ms, kills the only backend, and goes
// on until a second after the backend is up again.
func connectThroughGap(j job) (values, error) {
	const every = 20 * time.Millisecond
	type client struct {
		start, end time.Time
		err        error
	}
	var mu sync.Mutex
	var all []client
	stop := make(chan struct{})
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
			clients.Go(func() {
				c := client{start: time.Now()}
				_, c.err = request(j.Addr, j.Size)
				c.end = time.Now()
				mu.Lock()
				all = append(all, c)
				mu.Unlock()
			})
		}
	})
	gap := func() (from, to time.Time, err error) {
		time.Sleep(500 * time.Millisecond)
		if err := killBackend(j.Backends[0]); err != nil {
			return from, to, err
		}
		from = time.Now()
		err = waitServing(j.Backends[0])
		return from, time.Now(), err
	}
	down, up, err := gap()
	time.Sleep(time.Second)
	close(stop)
	clients.Wait()
	if err != nil {
		return nil, err
	}
	refused, held, slowest := 0, 0, longest{}
	for _, c := range all {
		switch {
		case c.start.Before(down): // its request may have been with the backend when that was killed
		case c.err != nil:
			refused++
		case c.start.Before(up):
			held++
			slowest.add(c.end.Sub(up))
		}
	}
	v := values{"refused": float64(refused)}
	if held > 0 {
		v["wait"] = slowest.milliseconds()
	}
	return v, nil
}
