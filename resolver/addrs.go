package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// normalize returns the spelling of a name that the cache uses: lower case, without a trailing dot.
// DNS ignores the case of letters (RFC 4343), and a trailing dot only marks the name as complete.
func normalize(host string) string {
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// literal returns the answer for an IP address. host must not be normalized, because IPv6 zones are
// case-sensitive.
func literal(host string) (Answer, bool) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return Answer{}, false
	}
	return Answer{Addrs: []netip.Addr{addr.Unmap()}, ResolvedAt: time.Now()}, true
}

// tidy unmaps addresses, removes duplicates and interleaves the families, beginning with that of the
// first address (RFC 8305 section 4). The order within a family is kept, because the resolver has
// sorted by preference (RFC 6724).
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

// sameSet reports whether two tidy answers have the same addresses in any order.
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
