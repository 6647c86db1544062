//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

func udpRows() []row {
	trips := []metric{{"cpu", "CPU µs per round trip", true}, {"rate", "round trips/s", true}}
	var rows []row
	for _, size := range []int{64, 1200} {
		rows = append(rows, row{name: fmt.Sprintf("UDP ping-pong, %d B, 64 clients", size), backends: udpEcho,
			job: job{Kind: "UDP ping-pong", Count: 64, Size: size}, metrics: trips})
	}
	oneWay := []metric{{"cpu", "CPU µs per datagram", true}, {"loss", "% lost", false}, {"rate", "datagrams/s sent", false}}
	for _, rate := range []int{50, 100, 200, 400} {
		rows = append(rows, row{name: fmt.Sprintf("UDP client to backend, %dk/s", rate), backends: udpSink,
			job: job{Kind: "UDP up", Count: oneWayClients, Size: 64, Rate: rate * 1000}, metrics: oneWay})
	}
	for _, rate := range []int{50, 100, 200, 400} {
		rows = append(rows, row{name: fmt.Sprintf("UDP backend to client, %dk/s", rate), backends: udpSource,
			job: job{Kind: "UDP down", Count: oneWayClients, Size: 64, Rate: rate * 1000}, metrics: oneWay})
	}
	rows = append(rows,
		row{name: "UDP sessions, one request and one reply", backends: udpEcho, responses: true,
			job:     job{Kind: "UDP sessions", Count: 12_000, Size: 64},
			metrics: []metric{{"cpu", "CPU µs per session", true}, {"rate", "sessions/s", true}}},
		row{name: "UDP concurrent sessions, 10,000", backends: udpEcho,
			job:     job{Kind: "UDP concurrent", Count: 10_000, Size: 64},
			metrics: []metric{{"memory", "KiB RSS per session", true}, {"files", "descriptors per session", false}}})
	for i := range rows {
		rows[i].group, rows[i].network = "UDP", "udp"
	}
	return rows
}

const oneWayClients = 8

func dialUDP(local, remote string) (*net.UDPConn, error) {
	to, err := netip.ParseAddrPort(remote)
	if err != nil {
		return nil, err
	}
	var from *net.UDPAddr
	if local != "" {
		from = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local))
	}
	return net.DialUDP("udp4", from, net.UDPAddrFromAddrPort(to))
}

// exchange sends a datagram and waits for its answer. It sends again if one of
// them is lost, for up to five seconds.
func exchange(conn *net.UDPConn, buf []byte) error {
	const tries, timeout = 25, 200 * time.Millisecond
	var err error
	for range tries {
		if _, err = conn.Write(buf); err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err = conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err = conn.Read(buf); err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return fmt.Errorf("no answer: %w", err)
}

func dialClients(j job) ([]*net.UDPConn, error) {
	conns := make([]*net.UDPConn, j.Count)
	for i := range conns {
		conn, err := dialUDP("", j.Addr)
		if err != nil {
			return nil, err
		}
		if j.Count <= 64 {
			if err := buffers(conn); err != nil {
				return nil, err
			}
		}
		conns[i] = conn
	}
	return conns, nil
}

func pingPongUDP(j job) (values, error) {
	conns, err := dialClients(j)
	if err != nil {
		return nil, err
	}
	var units atomic.Int64
	failed := make(chan error, j.Count)
	for _, conn := range conns {
		go func() {
			buf := make([]byte, j.Size)
			for {
				if err := exchange(conn, buf); err != nil {
					failed <- err
					return
				}
				units.Add(1)
			}
		}()
	}
	return window(j, &units, failed, 1, micro)
}

// oneWayUp sends to the backend's sink, which counts the datagrams.
func oneWayUp(j job) (values, error) {
	conns, err := dialClients(j)
	if err != nil {
		return nil, err
	}
	backend, err := dialControl(j.Control)
	if err != nil {
		return nil, err
	}
	packets := make([]*ipv4.PacketConn, len(conns))
	for i, conn := range conns {
		packets[i] = ipv4.NewPacketConn(conn)
	}
	list := messages(j.Size)
	send := func(window time.Duration) (int64, error) {
		return pace(j.Rate, window, len(packets), func(i, n int) int { return writeAll(packets[i], list[:n]) }), nil
	}
	return oneWay(j, send, func() (int64, error) { return backend.call(command{Op: "count"}) })
}

// oneWayDown registers its clients with the backend's source and counts the
// datagrams that it receives from it.
func oneWayDown(j job) (values, error) {
	backend, err := dialControl(j.Control)
	if err != nil {
		return nil, err
	}
	if _, err := backend.call(command{Op: "forget"}); err != nil {
		return nil, err
	}
	conns, err := dialClients(j)
	if err != nil {
		return nil, err
	}
	var received atomic.Int64
	for _, conn := range conns {
		if err := exchange(conn, make([]byte, j.Size)); err != nil {
			return nil, err
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return nil, err
		}
		go func() {
			p, in := ipv4.NewPacketConn(conn), messages(2048)
			for {
				n, err := p.ReadBatch(in, 0)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				received.Add(int64(max(n, 0)))
			}
		}()
	}
	send := func(window time.Duration) (int64, error) {
		return backend.call(command{Op: "send", Rate: j.Rate, Size: j.Size, Window: window})
	}
	return oneWay(j, send, func() (int64, error) { return received.Load(), nil })
}

// oneWay sends for a window of time and counts the datagrams that arrive. CPU is
// per datagram that arrived: one that the kernel drops in front of the relay has
// cost the relay nothing.
func oneWay(j job, send func(time.Duration) (int64, error), arrived func() (int64, error)) (values, error) {
	const settle = 200 * time.Millisecond
	if _, err := send(j.Window/4 + 50*time.Millisecond); err != nil {
		return nil, err
	}
	time.Sleep(settle)
	before, err := arrived()
	if err != nil {
		return nil, err
	}
	var units atomic.Int64
	s, err := begin(j, &units)
	if err != nil {
		return nil, err
	}
	sent, err := send(j.Window)
	if err != nil {
		return nil, err
	}
	took := time.Since(s.at)
	time.Sleep(settle)
	after, err := arrived()
	if err != nil {
		return nil, err
	}
	units.Store(after - before)
	v, err := s.end(1, micro)
	if err != nil {
		return nil, err
	}
	v["rate"] = float64(sent) / took.Seconds()
	v["loss"] = max(0, 100*(1-float64(after-before)/float64(sent)))
	return v, nil
}

// sessionsUDP runs clients, sixteen at a time, each with one exchange from a port
// of its own.
func sessionsUDP(j job) (values, error) {
	const atATime = 16
	var units atomic.Int64
	open := func(count int) error {
		return spread(atATime, count, func(int) error {
			conn, err := dialUDP("", j.Addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			defer units.Add(1)
			return exchange(conn, make([]byte, j.Size))
		})
	}
	if err := open(j.Count / 10); err != nil {
		return nil, err
	}
	return counted(j, &units, func() error { return open(j.Count) })
}

// concurrentUDP opens many sessions and runs an exchange on each from time to time.
// It uses ports outside the range that the kernel would give to the relay.
func concurrentUDP(j job) (values, error) {
	const warm, perAddress, firstPort = 100, 2000, 22_000
	conns := make([]*net.UDPConn, j.Count+warm)
	connect := func(i int) error {
		local := fmt.Sprintf("127.0.2.%d:%d", 1+i/perAddress, firstPort+i%perAddress)
		conn, err := dialUDP(local, j.Addr)
		if err != nil {
			return err
		}
		conns[i] = conn
		return exchange(conn, make([]byte, j.Size))
	}
	if err := spread(warm, warm, connect); err != nil {
		return nil, err
	}
	time.Sleep(300 * time.Millisecond)
	v, err := meter(j.PIDs).held(j.Count, func() error {
		if err := spread(64, j.Count, func(i int) error { return connect(warm + i) }); err != nil {
			return err
		}
		for range 2 {
			time.Sleep(j.Window / 2)
			if err := spread(16, j.Count, func(i int) error { return exchange(conns[warm+i], make([]byte, j.Size)) }); err != nil {
				return err
			}
		}
		time.Sleep(j.Window)
		return nil
	})
	runtime.KeepAlive(conns)
	return v, err
}
