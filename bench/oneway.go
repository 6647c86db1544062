//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

const oneWayClients = 8

// stamp writes the time into datagrams that are about to be sent.
func stamp(list []ipv4.Message) {
	now := uint64(time.Now().UnixNano())
	for _, m := range list {
		binary.BigEndian.PutUint64(m.Buffers[0], now)
	}
}

// arrived records how long ago datagrams were stamped, by a process of this machine.
func (p *progress) arrived(list []ipv4.Message) {
	now := time.Now().UnixNano()
	for _, m := range list {
		if m.N >= 8 {
			if sent := int64(binary.BigEndian.Uint64(m.Buffers[0])); sent != 0 {
				p.timed(time.Duration(now - sent))
			}
		}
	}
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
		if _, err := backend.call(command{Op: "forget latencies"}); err != nil {
			return 0, err
		}
		return pace(j.Rate, window, len(packets), func(i, n int) int {
			stamp(list[:n])
			return writeAll(packets[i], list[:n])
		}), nil
	}
	var p progress
	v, err := oneWay(j, &p, send, func() (int64, error) { return backend.call(command{Op: "count"}) })
	if err != nil {
		return nil, err
	}
	for key := range quantiles {
		micros, err := backend.call(command{Op: key})
		if err != nil {
			return nil, err
		}
		v[key] = float64(micros) / 1000
	}
	return v, nil
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
	var p progress
	for _, conn := range conns {
		if err := exchange(conn, make([]byte, j.Size)); err != nil {
			return nil, err
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return nil, err
		}
		go func() {
			packets, in := ipv4.NewPacketConn(conn), messages(2048)
			for {
				n, err := packets.ReadBatch(in, 0)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				p.arrived(in[:max(n, 0)])
				received.Add(int64(max(n, 0)))
			}
		}()
	}
	send := func(window time.Duration) (int64, error) {
		return backend.call(command{Op: "send", Rate: j.Rate, Size: j.Size, Window: window})
	}
	return oneWay(j, &p, send, func() (int64, error) { return received.Load(), nil })
}

// oneWay sends for a window of time and counts the datagrams that arrive. CPU is
// per datagram that arrived: one that the kernel drops in front of the relay has
// cost the relay nothing.
func oneWay(j job, p *progress, send func(time.Duration) (int64, error), arrived func() (int64, error)) (values, error) {
	const settle = 200 * time.Millisecond
	if _, err := send(j.Window/4 + 50*time.Millisecond); err != nil {
		return nil, err
	}
	time.Sleep(settle)
	before, err := arrived()
	if err != nil {
		return nil, err
	}
	s, err := begin(j, p)
	if err != nil {
		return nil, err
	}
	sent, err := send(j.Window)
	if err != nil {
		return nil, err
	}
	took := time.Since(s.began.machine.at)
	time.Sleep(settle)
	after, err := arrived()
	if err != nil {
		return nil, err
	}
	p.units.Store(s.n + after - before)
	v, err := s.end(1, micro)
	if err != nil {
		return nil, err
	}
	v["rate"] = float64(sent) / took.Seconds()
	v["loss"] = max(0, 100*(1-float64(after-before)/float64(sent)))
	return v, nil
}
