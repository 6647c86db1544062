//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func tcpRows() []row {
	var rows []row
	for _, streams := range []int{1, 16, 64} {
		rows = append(rows, bulkRows(streams)...)
	}
	for _, streams := range []int{1, 16} {
		for _, r := range bulkRows(streams) {
			r.name, r.congestion = strings.Replace(r.name, "bulk", "bulk with BBR", 1), "bbr"
			rows = append(rows, r)
		}
	}
	trips := roundTrips()
	for _, count := range []int{1, 64} {
		many := fmt.Sprintf("%d connections", count)
		if count == 1 {
			many = "1 connection"
		}
		rows = append(rows, row{name: "TCP ping-pong, 64 B, " + many, backends: tcpEcho,
			job: job{Kind: "ping-pong", Count: count, Size: 64}, metrics: trips})
	}
	rows = append(rows,
		row{name: "TCP connect, echo, close", backends: tcpEcho, job: job{Kind: "connections", Count: 4000, AtATime: 8, Size: 64},
			metrics: []metric{cpuPer("µs per connection"), single("rate", "connections/s", true), latency()}},
		row{name: "TCP idle connections, 5,000", backends: tcpEcho, job: job{Kind: "idle", Count: 5000, Size: 64},
			metrics: []metric{single("memory", "KiB RSS per connection", true), single("files", "descriptors per connection", false)}})
	for i := range rows {
		rows[i].group, rows[i].network = "TCP", "tcp"
	}
	return rows
}

// bulkRows returns the rows for both directions.
func bulkRows(streams int) []row {
	many := fmt.Sprintf("%d streams", streams)
	if streams == 1 {
		many = "1 stream"
	}
	return []row{
		{name: "TCP bulk, client to backend, " + many, backends: tcpSink,
			job: job{Kind: "bulk up", Count: streams}, metrics: bulk()},
		{name: "TCP bulk, backend to client, " + many, backends: tcpSource,
			job: job{Kind: "bulk down", Count: streams}, metrics: bulk()},
	}
}

const (
	gib   = 1 << 30
	micro = 1e6 // CPU in microseconds
)

func bulk() []metric {
	return []metric{cpuPer("s per GiB"), single("kernel", "CPU s per GiB in the kernel's own threads", true), single("rate", "GiB/s", true),
		{"ms for a MiB of a stream, p50 / p99 / p99.9", []string{"p50", "p99", "p99.9"}, true}}
}

// stream connects workers and measures them once all are connected.
func stream(j job, scale, perCPU float64, work func(*net.TCPConn, *progress) error) (values, error) {
	var p progress
	failed := make(chan error, j.Count)
	for range j.Count {
		conn, err := net.Dial("tcp", j.Addr)
		if err != nil {
			return nil, err
		}
		go func() { failed <- work(conn.(*net.TCPConn), &p) }()
	}
	return window(j, &p, failed, scale, perCPU)
}

// bulkUp counts the bytes that it has written. A few MiB of them are in flight,
// both at the beginning of the window and at its end.
func bulkUp(j job) (values, error) {
	return stream(j, gib, 1, func(conn *net.TCPConn, p *progress) error {
		count := p.bytes()
		for {
			n, err := conn.Write(filler)
			if err != nil {
				return err
			}
			count(n)
		}
	})
}

func bulkDown(j job) (values, error) {
	return stream(j, gib, 1, func(conn *net.TCPConn, p *progress) error { return discardCounted(conn, p.bytes()) })
}

// active is how many connections or sessions are waiting for an answer at a time. If
// there are more, they take turns, so that the load does not depend on their number.
const active = 64

// pingPong exchanges messages on all connections.
func pingPong(j job) (values, error) {
	m := meter(j.PIDs)
	if j.Count >= manyRelays {
		if err := warmUp(j); err != nil {
			return nil, err
		}
	}
	memory, err := m.resident()
	if err != nil {
		return nil, err
	}
	conns := make([]net.Conn, j.Count)
	if err := spread(active, j.Count, func(i int) (err error) {
		if conns[i], err = net.Dial("tcp", j.addr(i)); err == nil {
			err = trip(conns[i], make([]byte, j.Size))
		}
		return err
	}); err != nil {
		return nil, err
	}
	var p progress
	v, err := window(j, &p, inTurn(j.Count, func(i int, buf []byte) error {
		began := time.Now()
		err := trip(conns[i], buf[:j.Size])
		p.done(began)
		return err
	}), 1, micro)
	return v, m.addMemory(v, memory, j.Count, err)
}

// inTurn runs workers until one fails. Each of them does its share of count in turn.
func inTurn(count int, do func(i int, buf []byte) error) (failed <-chan error) {
	workers := min(active, count)
	ended := make(chan error, workers)
	for w := range workers {
		go func() {
			buf := make([]byte, 2048)
			for i := w; ; i += workers {
				if i >= count {
					i = w
				}
				if err := do(i, buf); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	return ended
}

// trip sends a message and reads its echo.
func trip(conn net.Conn, buf []byte) error {
	if _, err := conn.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, buf)
	return err
}

// connections opens connections, some at a time. Each sends a message, reads its
// echo and closes.
func connections(j job) (values, error) {
	var p progress
	connect := func(count int) error {
		return spread(j.AtATime, count, func(int) error {
			began := time.Now()
			conn, err := net.Dial("tcp", j.Addr)
			if err != nil {
				return err
			}
			defer p.done(began)
			defer conn.Close()
			return trip(conn, make([]byte, j.Size))
		})
	}
	if err := connect(j.Count / 10); err != nil {
		return nil, err
	}
	return counted(j, &p, func() error { return connect(j.Count) })
}

// spread calls do for 0 to count-1 on several workers and returns the first error.
func spread(workers, count int, do func(i int) error) error {
	var next atomic.Int64
	failed := make(chan error, workers)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

func idleConnections(j job) (values, error) {
	conns := make([]net.Conn, j.Count)
	connect := func(i int) error {
		conn, err := net.Dial("tcp", j.Addr)
		if err != nil {
			return err
		}
		conns[i] = conn
		return trip(conn, make([]byte, j.Size))
	}
	if err := warmUp(j); err != nil {
		return nil, err
	}
	v, err := meter(j.PIDs).held(j.Count, func() error {
		err := spread(64, j.Count, connect)
		time.Sleep(j.Window)
		return err
	})
	runtime.KeepAlive(conns)
	return v, err
}

// warmUp opens and closes connections, for what a relay allocates once.
func warmUp(j job) error {
	const count = 100
	conns := make([]net.Conn, count)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
		time.Sleep(300 * time.Millisecond)
	}()
	return spread(count, count, func(i int) (err error) {
		if conns[i], err = net.Dial("tcp", j.Addr); err == nil {
			err = trip(conns[i], make([]byte, j.Size))
		}
		return err
	})
}
