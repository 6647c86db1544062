package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// normalize gives the one spelling of a name that the cache uses: DNS does not tell letter cases
// apart (RFC 4343), and a trailing dot only says that the name is complete.
func normalize(host string) string {
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// literal answers for an IP address. It wants the host as written: IPv6 zones have letter cases.
func literal(host string) (Answer, bool) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return Answer{}, false
	}
	return Answer{Addrs: []netip.Addr{addr.Unmap()}, ResolvedAt: time.Now()}, true
}

// tidy unmaps addresses, removes duplicates and interleaves the families, beginning with that of
// the first address (RFC 8305 section 4). Within a family the order stays: the one who answered
// has sorted by preference (RFC 6724).
func tidy(addrs []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, addr := range addrs {
		addr = addr.Unmap()
		switch {
		case slices.Contains(first, addr) || slices.Contains(second, addr):
		case len(first) == 0 || addr.Is4() == first[0].Is4():
			first = append(first, addr)
		default:
			second = append(second, addr)
		}
	}
	both := make([]netip.Addr, 0, len(first)+len(second))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			both = append(both, first[i])
		}
		if i < len(second) {
			both = append(both, second[i])
		}
	}
	return both
}

// sameSet says whether two tidy answers name the same addresses, in whatever order.
func sameSet(a, b []netip.Addr) bool {
	if len(a) != len(b) {
		return false
	}
	for _, addr := range a {
		if !slices.Contains(b, addr) {
			return false
		}
	}
	return true
}
