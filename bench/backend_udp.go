//go:build linux

package main

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	batch        = 64      // datagrams per system call
	socketBuffer = 4 << 20 // large, so that losses happen in the relay
)

// udpServices are the UDP services of the backend process.
type udpServices struct {
	sunk   atomic.Int64 // datagrams that the sink received
	took   progress     // their latencies
	source *net.UDPConn
	mu     sync.Mutex
	peers  map[netip.AddrPort]bool // clients that the source sends to
}

func serveUDP(ports *backendPorts) (*udpServices, error) {
	u := &udpServices{peers: map[netip.AddrPort]bool{}}
	if _, err := u.serve(ports, udpEcho, u.echo); err != nil {
		return nil, err
	}
	if _, err := u.serve(ports, udpSink, u.sink); err != nil {
		return nil, err
	}
	var err error
	u.source, err = u.serve(ports, udpSource, u.register)
	return u, err
}

func (u *udpServices) serve(ports *backendPorts, service string, loop func(*net.UDPConn)) (*net.UDPConn, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(loopback+":0")))
	if err != nil {
		return nil, err
	}
	if err := buffers(conn); err != nil {
		return nil, err
	}
	ports.Addr[service] = conn.LocalAddr().String()
	go loop(conn)
	return conn, nil
}

func buffers(conn *net.UDPConn) error {
	return errors.Join(conn.SetReadBuffer(socketBuffer), conn.SetWriteBuffer(socketBuffer))
}

// messages returns buffers for one batch.
func messages(size int) []ipv4.Message {
	list := make([]ipv4.Message, batch)
	for i := range list {
		list[i].Buffers = [][]byte{make([]byte, size)}
	}
	return list
}

func (u *udpServices) echo(conn *net.UDPConn) {
	p := ipv4.NewPacketConn(conn)
	const size = 2048
	in, out := messages(size), make([]ipv4.Message, batch)
	for {
		n, err := p.ReadBatch(in, 0)
		if err != nil {
			continue // an ICMP error from a client that has closed its socket
		}
		for i, m := range in[:n] {
			out[i] = ipv4.Message{Buffers: [][]byte{m.Buffers[0][:m.N]}, Addr: m.Addr}
		}
		writeAll(p, out[:n])
	}
}

// writeAll sends the messages and returns the number sent. It skips those whose
// send fails.
func writeAll(p *ipv4.PacketConn, list []ipv4.Message) (sent int) {
	for len(list) > 0 {
		n, err := p.WriteBatch(list, 0)
		if err != nil {
			n = 1
		} else {
			sent += n
		}
		list = list[n:]
	}
	return sent
}

func (u *udpServices) sink(conn *net.UDPConn) {
	p := ipv4.NewPacketConn(conn)
	in := messages(2048)
	for {
		if n, err := p.ReadBatch(in, 0); err == nil {
			u.took.arrived(in[:n])
			u.sunk.Add(int64(n))
		}
	}
}

// register adds each client that sends a datagram to the peers of the source,
// and echoes the datagram.
func (u *udpServices) register(conn *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			continue
		}
		u.mu.Lock()
		u.peers[from] = true
		u.mu.Unlock()
		_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
	}
}

func (u *udpServices) execute(c command) int64 {
	switch c.Op {
	case "forget":
		u.mu.Lock()
		defer u.mu.Unlock()
		clear(u.peers)
	case "send":
		return u.send(c)
	case "count":
		return u.sunk.Load()
	case "forget latencies":
		u.took.forget()
	default: // a quantile of the latencies of the sink, in microseconds
		v := values{}
		u.took.addTo(v)
		return int64(1000 * v[c.Op])
	}
	return 0
}

// send sends datagrams to all peers evenly and returns how many it sent.
func (u *udpServices) send(c command) int64 {
	p := ipv4.NewPacketConn(u.source)
	var lists [][]ipv4.Message
	u.mu.Lock()
	for peer := range u.peers {
		list := messages(c.Size)
		for i := range list {
			list[i].Addr = net.UDPAddrFromAddrPort(peer)
		}
		lists = append(lists, list)
	}
	u.mu.Unlock()
	if len(lists) == 0 {
		return 0
	}
	return pace(c.Rate, c.Window, len(lists), func(i, n int) int {
		stamp(lists[i][:n])
		return writeAll(p, lists[i][:n])
	})
}

// pace calls send for senders 0 to count-1 in small steps, evenly, at the given
// total rate. Datagrams that are more than 5 ms late, because this process did
// not get to run, are never sent: sending them would make a burst above the rate.
func pace(rate int, window time.Duration, count int, send func(sender, n int) int) (sent int64) {
	perSecond := float64(rate)
	start := time.Now()
	due, last := 0.0, start
	for now := start; now.Sub(start) < window; now = time.Now() {
		due = min(due+now.Sub(last).Seconds()*perSecond, perSecond*0.005)
		last = now
		each := min(int(due)/count, batch)
		if each == 0 {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		for i := range count {
			sent += int64(send(i, each))
		}
		due -= float64(each * count)
	}
	return sent
}
