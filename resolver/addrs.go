package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// normalize returns the spelling of a name that the cache uses: lower case, because DNS ignores the
// case of letters (RFC 4343). A dot at the end stays: without it, search domains apply to the name.
func normalize(host string) string { return strings.ToLower(host) }

// trimDot returns a name without the dot at its end.
func trimDot(host string) string { return strings.TrimSuffix(host, ".") }

// literal returns the answer for an IP address. host must not be normalized, because IPv6 zones are
// case-sensitive.
func literal(host string) (Answer, bool) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return Answer{}, false
	}
	return Answer{Addrs: []netip.Addr{addr.Unmap()}, ResolvedAt: time.Now()}, true
}

// maxAddrs is the most addresses of a name that are kept, and therefore tried for a client. Each
// takes a descriptor while it is dialled, and each is in log lines.
const maxAddrs = 32

// tidy unmaps addresses, removes duplicates and interleaves the families, beginning with that of the
// first address (RFC 8305 section 4). The order within a family is kept, because the resolver has
// sorted by preference (RFC 6724).
//
// Of more than maxAddrs addresses, those in old are kept first, in the order of old. DNS servers
// rotate long answers, which thus changes nothing. surplus is the number of addresses that are not
// kept.
//
// unusable lists the addresses that no backend can have, at most maxAddrs.
func tidy(addrs, old []netip.Addr) (kept, unusable []netip.Addr, surplus int) {
	usable := make([]netip.Addr, 0, len(addrs))
	answered := make(map[netip.Addr]bool, len(addrs))
	for _, addr := range addrs {
		addr = addr.Unmap()
		if answered[addr] {
			continue
		}
		answered[addr] = true
		if canBeBackend(addr) {
			usable = append(usable, addr)
		} else if len(unusable) < maxAddrs {
			unusable = append(unusable, addr)
		}
	}
	if len(usable) > maxAddrs {
		usable = firstSeen(old, usable, answered)
	}
	kept = interleave(usable)
	surplus = max(0, len(kept)-maxAddrs)
	return kept[:len(kept)-surplus], unusable, surplus
}

// withMissingFamily returns addrs with the old addresses of the family that addrs lacks: the query
// for that family failed, which removes no addresses.
func withMissingFamily(addrs, old []netip.Addr) []netip.Addr {
	has := func(list []netip.Addr, is4 bool) bool {
		return slices.ContainsFunc(list, func(a netip.Addr) bool { return a.Unmap().Is4() == is4 })
	}
	all := slices.Clone(addrs)
	for _, addr := range old {
		if len(addrs) > 0 && !has(addrs, addr.Is4()) {
			all = append(all, addr)
		}
	}
	return all
}

// canBeBackend reports whether an address can be that of a backend. The kernel would connect the
// unspecified addresses to this machine. A group of hosts cannot be dialled.
func canBeBackend(addr netip.Addr) bool {
	return !addr.IsUnspecified() && !addr.IsMulticast() && addr != broadcast
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// firstSeen returns the addresses with those in old first, in the order of old. answered holds all
// addresses.
func firstSeen(old, addrs []netip.Addr, answered map[netip.Addr]bool) []netip.Addr {
	ordered := make([]netip.Addr, 0, len(addrs))
	for _, addr := range old {
		if answered[addr] {
			ordered = append(ordered, addr)
		}
	}
	for _, addr := range addrs {
		if !slices.Contains(old, addr) {
			ordered = append(ordered, addr)
		}
	}
	return ordered
}

// interleave alternates between the families, beginning with that of the first address.
func interleave(addrs []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, addr := range addrs {
		if addr.Is4() == addrs[0].Is4() {
			first = append(first, addr)
		} else {
			second = append(second, addr)
		}
	}
	both := make([]netip.Addr, 0, len(addrs))
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
