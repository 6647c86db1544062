//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

func tcpRows() []row {
	bulk := []metric{{"cpu", "CPU s per GiB", true}, {"rate", "GiB/s", true}}
	var rows []row
	for _, streams := range []int{1, 16} {
		many := fmt.Sprintf("%d streams", streams)
		if streams == 1 {
			many = "1 stream"
		}
		rows = append(rows,
			row{name: "TCP bulk, client to backend, " + many, backends: tcpSink,
				job: job{Kind: "bulk up", Count: streams}, metrics: bulk},
			row{name: "TCP bulk, backend to client, " + many, backends: tcpSource,
				job: job{Kind: "bulk down", Count: streams}, metrics: bulk})
	}
	trips := []metric{{"cpu", "CPU µs per round trip", true}, {"rate", "round trips/s", true}}
	for _, count := range []int{1, 64} {
		many := fmt.Sprintf("%d connections", count)
		if count == 1 {
			many = "1 connection"
		}
		rows = append(rows, row{name: "TCP ping-pong, 64 B, " + many, backends: tcpEcho,
			job: job{Kind: "ping-pong", Count: count, Size: 64}, metrics: trips})
	}
	rows = append(rows,
		row{name: "TCP connect, echo, close", backends: tcpEcho, job: job{Kind: "connections", Count: 4000, Size: 64},
			metrics: []metric{{"cpu", "CPU µs per connection", true}, {"rate", "connections/s", true}}},
		row{name: "TCP idle connections, 5,000", backends: tcpEcho, job: job{Kind: "idle", Count: 5000, Size: 64},
			metrics: []metric{{"memory", "KiB RSS per connection", true}, {"files", "descriptors per connection", false}}})
	for i := range rows {
		rows[i].group, rows[i].network = "TCP", "tcp"
	}
	return rows
}

const (
	gib   = 1 << 30
	micro = 1e6 // CPU in microseconds
)

// stream connects workers, which count their units of work, and measures them
// once all are connected.
func stream(j job, scale, perCPU float64, work func(*net.TCPConn, *atomic.Int64) error) (values, error) {
	var units atomic.Int64
	failed := make(chan error, j.Count)
	for range j.Count {
		conn, err := net.Dial("tcp", j.Addr)
		if err != nil {
			return nil, err
		}
		go func() { failed <- work(conn.(*net.TCPConn), &units) }()
	}
	return window(j, &units, failed, scale, perCPU)
}

// bulkUp counts the bytes that it has written. A few MiB of them are in flight,
// both at the beginning of the window and at its end.
func bulkUp(j job) (values, error) {
	return stream(j, gib, 1, func(conn *net.TCPConn, bytes *atomic.Int64) error {
		for {
			n, err := conn.Write(filler)
			if err != nil {
				return err
			}
			bytes.Add(int64(n))
		}
	})
}

func bulkDown(j job) (values, error) {
	return stream(j, gib, 1, func(conn *net.TCPConn, bytes *atomic.Int64) error {
		return discardCounted(conn, bytes)
	})
}

func pingPong(j job) (values, error) {
	return stream(j, 1, micro, func(conn *net.TCPConn, trips *atomic.Int64) error {
		buf := make([]byte, j.Size)
		for {
			if err := trip(conn, buf); err != nil {
				return err
			}
			trips.Add(1)
		}
	})
}

// trip sends a message and reads its echo.
func trip(conn net.Conn, buf []byte) error {
	if _, err := conn.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, buf)
	return err
}

// connections opens connections, eight at a time. Each sends a message, reads its
// echo and closes.
func connections(j job) (values, error) {
	const atATime = 8
	var units atomic.Int64
	connect := func(count int) error {
		return spread(atATime, count, func(int) error {
			conn, err := net.Dial("tcp", j.Addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			defer units.Add(1)
			return trip(conn, make([]byte, j.Size))
		})
	}
	if err := connect(j.Count / 10); err != nil {
		return nil, err
	}
	return counted(j, &units, func() error { return connect(j.Count) })
}

// counted measures work of a fixed number of units. It includes the CPU time that
// a relay uses shortly after the last one.
func counted(j job, units *atomic.Int64, work func() error) (values, error) {
	time.Sleep(100 * time.Millisecond)
	s, err := begin(j, units)
	if err != nil {
		return nil, err
	}
	if err := work(); err != nil {
		return nil, err
	}
	took := time.Since(s.at)
	time.Sleep(100 * time.Millisecond)
	v, err := s.end(1, micro)
	if err == nil {
		v["rate"] = float64(units.Load()-s.n) / took.Seconds()
	}
	return v, err
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
	const warm = 100 // connections before the measurement, for what a relay allocates once
	if err := spread(warm, warm, connect); err != nil {
		return nil, err
	}
	for i := range warm {
		conns[i].Close()
	}
	time.Sleep(300 * time.Millisecond)
	v, err := meter(j.PIDs).held(j.Count, func() error {
		err := spread(64, j.Count, connect)
		time.Sleep(j.Window)
		return err
	})
	runtime.KeepAlive(conns)
	return v, err
}
