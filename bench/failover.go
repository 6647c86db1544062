//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// The dead backend that comes before the live one, in the rows of this file.
const (
	refusedBackend = "a backend that refuses connections"
	silentBackend  = "a silent backend"
	resetBackend   = "a backend that resets each request"
	hungBackend    = "a backend that accepts and answers nothing"
	namedBackend   = "a name with a silent and a live address"

	pairName = "pair.bench"
	deadIP   = "127.0.3.1"
	liveIP   = "127.0.3.2"
	refuseIP = "127.0.3.3"
)

func failoverRows() []row {
	metrics := []metric{single("first", "ms to the first byte, first client", true), single("next", "ms to the first byte, next clients", true)}
	rows := []row{
		{name: "First backend refuses", backends: refusedBackend},
		{name: "First backend is silent, 1 s connect timeout", backends: silentBackend},
		{name: "First backend is silent, 1 s connect timeout, `hedge 300ms`", backends: silentBackend, slow: true, relay: object{"hedge": "300ms"}},
		{name: "First backend resets each request, `rescue 16KiB`", backends: resetBackend, relay: object{"rescue": 16 << 10}},
		{name: "First backend accepts and hangs, `rescue 16KiB`, `first_byte_timeout 500ms`", backends: hungBackend, slow: true,
			relay: object{"rescue": 16 << 10, "first_byte_timeout": "500ms"}},
		{name: "First of two addresses of a name is silent", backends: namedBackend},
	}
	for i := range rows {
		rows[i].group, rows[i].network, rows[i].metrics = failover, "tcp", metrics
		rows[i].job = job{Kind: "first byte", Count: 50, Size: 64}
	}
	return rows
}

// firstByte measures the time from before the dial to the first byte of the
// answer: of the first client, and the median of the next clients.
func firstByte(j job) (values, error) {
	const limit = 4 * time.Second
	var first time.Duration
	var next []time.Duration
	for i := 0; i <= j.Count; i++ {
		start := time.Now()
		conn, err := net.DialTimeout("tcp", j.Addr, limit)
		if err != nil {
			return nil, err
		}
		err = errors.Join(conn.SetDeadline(start.Add(limit)), trip(conn, make([]byte, j.Size)))
		took := time.Since(start)
		conn.Close()
		switch {
		case err != nil && i == 0:
			return nil, fmt.Errorf("the first client was not served after %v: %w", took.Round(time.Millisecond), err)
		case err != nil:
			return nil, fmt.Errorf("client %d was not served: %w", i+1, err)
		case i == 0:
			first = took
		default:
			next = append(next, took)
		}
		if time.Since(start) > time.Second {
			j.Count = min(j.Count, 3) // a target that tries the dead backend each time would take a minute
		}
	}
	slices.Sort(next)
	return values{"first": first.Seconds() * 1000, "next": next[len(next)/2].Seconds() * 1000}, nil
}

// servePair makes one port silent on one address, live on another and refused on
// a third, and serves a name for the first two.
func servePair(ports *backendPorts) error {
	live, err := accept(liveIP+":0", echo)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(live)
	ports.Live = live
	ports.Dead = net.JoinHostPort(deadIP, port)
	ports.Refusing = net.JoinHostPort(refuseIP, port)
	if err := listenSilently(ports.Dead); err != nil {
		return err
	}
	if ports.Resetting, err = accept(loopback+":0", reset); err != nil {
		return err
	}
	if ports.Hanging, err = accept(loopback+":0", discard); err != nil {
		return err
	}
	ports.DNS, err = serveDNS()
	return err
}

// listenSilently opens a listener that answers no connection attempt: its accept
// queue is full, so Linux drops each SYN.
func listenSilently(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	silent = append(silent, l)
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Listen(int(fd), 0) }); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	for range 16 {
		conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if netErr, ok := err.(net.Error); ok && netErr.Timeout() {
			return nil
		}
		if err != nil {
			return err
		}
		silent = append(silent, conn)
	}
	return errors.New("a listener with a full queue still answers")
}

var silent []any // holds references, so that no finalizer closes these sockets

// serveDNS answers queries for pairName, with the dead address first.
func serveDNS() (string, error) {
	socket, err := net.ListenPacket("udp4", loopback+":0")
	if err != nil {
		return "", err
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(answerPair)}
	go func() {
		if err := server.ActivateAndServe(); err != nil {
			fmt.Fprintln(os.Stderr, "DNS:", err)
		}
	}()
	return socket.LocalAddr().String(), nil
}

func answerPair(w dns.ResponseWriter, query *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(query)
	for _, q := range query.Question {
		if q.Qtype != dns.TypeA || q.Name != pairName+"." {
			continue
		}
		for _, ip := range []string{deadIP, liveIP} {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A:   net.ParseIP(ip),
			})
		}
	}
	_ = w.WriteMsg(m)
}
