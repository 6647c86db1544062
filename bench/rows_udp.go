//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"
)

func udpRows() []row {
	trips := roundTrips()
	var rows []row
	for _, size := range []int{64, 1200} {
		rows = append(rows, row{slow: size == 1200, name: fmt.Sprintf("UDP ping-pong, %d B, 64 clients", size), backends: udpEcho,
			job: job{Kind: "UDP ping-pong", Count: 64, Size: size}, metrics: trips})
	}
	oneWay := []metric{cpuPer("µs per datagram"), single("loss", "% lost", false), single("rate", "datagrams/s sent", false), latency()}
	for _, rate := range []int{50, 100, 200, 400} {
		rows = append(rows, row{slow: rate != 200, name: fmt.Sprintf("UDP client to backend, %dk/s", rate), backends: udpSink,
			job: job{Kind: "UDP up", Count: oneWayClients, Size: 64, Rate: rate * 1000}, metrics: oneWay})
	}
	for _, rate := range []int{50, 100, 200, 400} {
		rows = append(rows, row{slow: rate != 200, name: fmt.Sprintf("UDP backend to client, %dk/s", rate), backends: udpSource,
			job: job{Kind: "UDP down", Count: oneWayClients, Size: 64, Rate: rate * 1000}, metrics: oneWay})
	}
	rows = append(rows,
		row{name: "UDP sessions, one request and one reply", backends: udpEcho, responses: true,
			job:     job{Kind: "UDP sessions", Count: 12_000, Size: 64},
			metrics: perSession()},
		row{name: "UDP sessions, the table fills to 10,000", backends: udpEcho,
			job: job{Kind: "UDP sessions", Count: 9_000, Fill: 100, Size: 64}, metrics: perSession()},
		row{name: "UDP sessions, the table of 10,000 is full", backends: udpEcho, full: true, relay: object{"max_udp_sessions": 10_000},
			job: job{Kind: "UDP sessions", Count: 24_000, Fill: 10_000, Size: 64}, metrics: perSession()},
		row{name: "UDP sessions, the table of 10,000 is full, `udp_responses 1`", backends: udpEcho, full: true, responses: true,
			relay: object{"max_udp_sessions": 10_000},
			job:   job{Kind: "UDP sessions", Count: 24_000, Fill: 10_000, Size: 64}, metrics: perSession()},
		row{name: "UDP concurrent sessions, 10,000", backends: udpEcho,
			job:     job{Kind: "UDP concurrent", Count: 10_000, Size: 64},
			metrics: []metric{single("memory", "KiB RSS per session", true), single("files", "descriptors per session", false)}})
	for i := range rows {
		rows[i].group, rows[i].network = "UDP", "udp"
	}
	return rows
}

func perSession() []metric {
	return []metric{cpuPer("µs per session"), single("rate", "sessions/s", true), latency()}
}

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

func pingPongUDP(j job) (values, error) {
	m := meter(j.PIDs)
	memory, err := m.resident()
	if err != nil {
		return nil, err
	}
	conns := make([]*net.UDPConn, j.Count)
	if err := spread(active, j.Count, func(i int) (err error) {
		local := ""
		if j.Count > active {
			local = sessionAddr(i)
		}
		if conns[i], err = dialUDP(local, j.addr(i)); err != nil {
			return err
		}
		return exchange(conns[i], make([]byte, j.Size))
	}); err != nil {
		return nil, err
	}
	var p progress
	v, err := window(j, &p, inTurn(j.Count, func(i int, buf []byte) error {
		began := time.Now()
		err := exchange(conns[i], buf[:j.Size])
		p.done(began)
		return err
	}), 1, micro)
	return v, m.addMemory(v, memory, j.Count, err)
}

// sessionAddr returns the address of a client. Its port is outside the range that
// the kernel would give to the relay.
func sessionAddr(i int) string {
	const perAddress, firstPort = 2000, 22_000
	return fmt.Sprintf("127.0.2.%d:%d", 1+i/perAddress, firstPort+i%perAddress)
}

// sessionsUDP runs clients, sixteen at a time, each with one exchange from a port
// of its own. Fill opens that many sessions first.
func sessionsUDP(j job) (values, error) {
	const atATime = 16
	var p progress
	next := 0
	open := func(count int) error {
		first := next
		next += count
		return spread(atATime, count, func(i int) error {
			local := ""
			if j.Fill > 0 {
				local = sessionAddr(first + i) // a port that was used before may still have its session
			}
			began := time.Now()
			conn, err := dialUDP(local, j.Addr)
			if err != nil {
				return err
			}
			defer p.done(began)
			defer conn.Close()
			return exchange(conn, make([]byte, j.Size))
		})
	}
	if err := open(j.Fill + j.Count/10); err != nil {
		return nil, err
	}
	return counted(j, &p, func() error { return open(j.Count) })
}

// concurrentUDP opens many sessions and runs an exchange on each from time to time.
func concurrentUDP(j job) (values, error) {
	const warm = 100
	conns := make([]*net.UDPConn, j.Count+warm)
	connect := func(i int) error {
		conn, err := dialUDP(sessionAddr(i), j.Addr)
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
