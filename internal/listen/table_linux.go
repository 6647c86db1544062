package listen

import (
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/procfs"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// procSelf is the directory of this process in proc(5). Tests replace it.
var procSelf = "/proc/self"

// holder is a socket of any process.
type holder struct {
	at         netip.AddrPort
	inode, uid uint64
	listening  bool // always, for UDP
}

// table holds the sockets of a network that the kernel listed at one moment.
type table struct {
	read    time.Time
	byPort  map[uint16][]holder
	since   map[uint16]bool // ports that this process has bound or tried to bind since
	process map[uint64]bool // inodes of the sockets of this process; nil: not read
}

// tables keeps a table of each network for a moment, because reading one takes
// milliseconds and a reload may open thousands of sockets. It is guarded by
// Sockets.binding.
type tables map[string]*table

// maxTableAge bounds the age of a table that is used again. A socket that another
// program has closed or opened meanwhile costs one more read. The exception is one
// of the same user that has SO_REUSEPORT: it is not noticed.
const maxTableAge = time.Second

// recent returns a table that is still valid for a port, or nil.
func (t tables) recent(network string, port uint16) *table {
	known := t[network]
	if known == nil || time.Since(known.read) > maxTableAge || known.since[port] {
		return nil
	}
	return known
}

// bound makes the table of a network invalid for a port.
func (t tables) bound(network string, port uint16) {
	if known := t[network]; known != nil {
		known.since[port] = true
	}
}

// forget drops all tables.
func (t tables) forget() { clear(t) }

// read reads and keeps the table of a network. It reads /proc/self/net and not
// /proc/net, which does not exist where proc(5) is mounted with subset=pid.
func (t tables) read(network string) (*table, error) {
	sockets, err := readSockets(network)
	if err != nil {
		return nil, err
	}
	known := &table{read: time.Now(), byPort: make(map[uint16][]holder), since: make(map[uint16]bool)}
	for _, socket := range sockets {
		addr, ok := netip.AddrFromSlice(socket.LocalAddr)
		if !ok || socket.Inode == 0 {
			continue
		}
		port := uint16(socket.LocalPort)
		known.byPort[port] = append(known.byPort[port], holder{
			at: netip.AddrPortFrom(addr.Unmap(), port), inode: socket.Inode, uid: socket.UID,
			listening: network == "udp" || socket.St == tcpListen,
		})
	}
	t[network] = known
	return known, nil
}

// tcpListen is the state of a listening socket in /proc/self/net/tcp (TCP_LISTEN).
const tcpListen = 0x0a

// holders returns the sockets that prevent a bind to an address: those that listen
// and overlap it or, if there are none, those of connections.
func (t *table) holders(at netip.AddrPort) []holder {
	var listening, connected []holder
	for _, h := range t.byPort[at.Port()] {
		switch {
		case !Overlap(h.at.Addr(), at.Addr()):
		case h.listening:
			listening = append(listening, h)
		default:
			connected = append(connected, h)
		}
	}
	if len(listening) == 0 {
		return connected
	}
	return listening
}

// processSockets returns the inodes of the sockets of this process.
func (t *table) processSockets() (map[uint64]bool, error) {
	if t.process == nil {
		var err error
		if t.process, err = netio.ProcessSockets(); err != nil {
			return nil, err
		}
	}
	return t.process, nil
}

// readSockets returns the sockets of a network, for both families. A system
// without IPv6 has no table for it.
func readSockets(network string) (procfs.NetTCP, error) {
	proc, err := procfs.NewFS(procSelf)
	if err != nil {
		return nil, err
	}
	// Netlink, which is recommended instead, is blocked in sandboxes that have /proc/self/net.
	//lint:ignore SA1019 see above
	four, six := proc.NetTCP, proc.NetTCP6
	if network == "udp" {
		four = func() (procfs.NetTCP, error) { table, err := proc.NetUDP(); return procfs.NetTCP(table), err }
		six = func() (procfs.NetTCP, error) { table, err := proc.NetUDP6(); return procfs.NetTCP(table), err }
	}
	sockets, err := four()
	if err != nil {
		return nil, err
	}
	more, err := six()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return append(sockets, more...), nil
}
