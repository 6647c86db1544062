package netio

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// localAddrsMaxAge is the age at which the list of this machine's addresses is
// read again, if it is used.
const localAddrsMaxAge = 5 * time.Second

// localAddrs is the list of the addresses of this machine's interfaces.
type localAddrs struct {
	addrs map[[16]byte]struct{} // the type of key with the fastest lookup
	old   atomic.Bool
}

var (
	knownLocal   atomic.Pointer[localAddrs] // nil: not read so far
	readingLocal atomic.Bool                // another goroutine reads the list
)

// IsLocalAddr reports whether a connection to addr leads to this machine: addr is
// on loopback, is that of an interface, or is unspecified. Addresses of interfaces
// may be some seconds out of date: the first call reads them, and later calls have
// another goroutine read them when they are old.
func IsLocalAddr(addr netip.Addr) bool {
	addr = addr.Unmap()
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	known := knownLocal.Load()
	switch {
	case known == nil:
		known = readLocalAddrs()
	case known.old.Load() && !readingLocal.Swap(true):
		go func() { // ends when the list is read
			defer readingLocal.Store(false)
			readLocalAddrs()
		}()
	}
	_, local := known.addrs[addr.As16()]
	return local
}

// readLocalAddrs reads and keeps the list. If it cannot be read, such as without a
// free descriptor, the addresses read before stay in use.
func readLocalAddrs() *localAddrs {
	l := &localAddrs{addrs: make(map[[16]byte]struct{})}
	list, err := net.InterfaceAddrs()
	if before := knownLocal.Load(); err != nil && before != nil {
		l.addrs = before.addrs
	}
	for _, one := range list {
		if prefix, ok := one.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(prefix.IP); ok {
				l.addrs[addr.As16()] = struct{}{}
			}
		}
	}
	knownLocal.Store(l)
	time.AfterFunc(localAddrsMaxAge, func() { l.old.Store(true) })
	return l
}
