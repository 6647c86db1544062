package netio

import (
	"fmt"
	"os"
)

// ephemeralPorts returns the number of ports in net.ipv4.ip_local_port_range (see
// ip(7)), which applies to IPv6 too.
func ephemeralPorts() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return ianaEphemeralPorts
	}
	var low, high int
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil || high < low {
		return ianaEphemeralPorts
	}
	return high - low + 1
}
