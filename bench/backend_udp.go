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
	batch        = 64      // datagrams in a system call
	socketBuffer = 4 << 20 // so that what is lost is lost in the relay
)

// udpServices are the backend's.
type udpServices struct {
	sunk   atomic.Int64 // datagrams
	source *net.UDPConn
	mu     sync.Mutex
	peers  map[netip.AddrPort]bool // whom the source sends to
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
	u.source, err = u.serve(ports, udpSource, u.meet)
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

// messages are buffers for one batch.
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
			continue // an ICMP message of a client that is gone
		}
		for i, m := range in[:n] {
			out[i] = ipv4.Message{Buffers: [][]byte{m.Buffers[0][:m.N]}, Addr: m.Addr}
		}
		writeAll(p, out[:n])
	}
}

// writeAll returns how many went out; one that is refused is passed over.
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
			u.sunk.Add(int64(n))
		}
	}
}

// meet learns whom the source sends to, and answers them.
func (u *udpServices) meet(conn *net.UDPConn) {
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

func (u *udpServices) obey(o order) int64 {
	switch o.Op {
	case "forget":
		u.mu.Lock()
		defer u.mu.Unlock()
		clear(u.peers)
	case "send":
		return u.send(o)
	}
	return u.sunk.Load()
}

// send sends to all peers alike and returns how many datagrams that were.
func (u *udpServices) send(o order) int64 {
	p := ipv4.NewPacketConn(u.source)
	var lists [][]ipv4.Message
	u.mu.Lock()
	for peer := range u.peers {
		list := messages(o.Size)
		for i := range list {
			list[i].Addr = net.UDPAddrFromAddrPort(peer)
		}
		lists = append(lists, list)
	}
	u.mu.Unlock()
	if len(lists) == 0 {
		return 0
	}
	return pace(o.Rate, o.Window, len(lists), func(i, n int) int { return writeAll(p, lists[i][:n]) })
}

// pace has senders 0 to count-1 send what is due, a little at a time and all
// alike. What a sender that was kept from running is late with beyond 5 ms
// stays unsent: caught up with, it would be a burst that no rate describes.
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
