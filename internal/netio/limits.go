package netio

import "math"

// SessionLimit returns how many connected UDP sockets this process should use at
// most: the least of 65,536, 80 % of the system's ephemeral ports and half of the
// process's descriptor limit.
func SessionLimit() int {
	limit := 65536
	limit = min(limit, ephemeralPorts()*8/10)
	if files := descriptorLimit(); files > 0 {
		limit = min(limit, files/2)
	}
	return max(limit, 1)
}

// DescriptorLimit returns how many descriptors this process may have, or 0 if there
// is no limit.
func DescriptorLimit() int { return descriptorLimit() }

// ianaEphemeralPorts is the number of ports in the range 49152-65535 of RFC 6335,
// section 6.
const ianaEphemeralPorts = 65535 - 49152 + 1

// privilegedPorts is the first port that needs no rights, unless the system says
// otherwise.
const privilegedPorts = 1024

// SameHostLimit returns how many TCP relays between two addresses of one machine
// this process can have at most: those that take all descriptors that are not
// reserved from TCP relays, with two each. It returns [math.MaxInt] if there is no
// limit. [Scarce] mostly comes first.
func SameHostLimit() int {
	if first, _ := reserved(); first < math.MaxInt {
		return max(first/2, 1)
	}
	return math.MaxInt
}
