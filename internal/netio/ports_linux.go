package netio

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ephemeralPorts returns the number of ports in net.ipv4.ip_local_port_range (see
// ip(7)), which applies to IPv6 too.
func ephemeralPorts() int {
	text, ok := Sysctl("net.ipv4.ip_local_port_range")
	if !ok {
		return ianaEphemeralPorts
	}
	var low, high int
	if _, err := fmt.Sscan(text, &low, &high); err != nil || high < low {
		return ianaEphemeralPorts
	}
	return high - low + 1
}

// Sysctl returns the text of a kernel parameter, such as "net.core.rmem_max". ok is
// false if the system does not have it.
func Sysctl(name string) (text string, ok bool) {
	content, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return strings.TrimSpace(string(content)), err == nil
}

// Privileged reports whether a port needs CAP_NET_BIND_SERVICE: it is below
// net.ipv4.ip_unprivileged_port_start, which applies to IPv6 too.
func Privileged(port int) bool {
	first := privilegedPorts
	if text, ok := Sysctl("net.ipv4.ip_unprivileged_port_start"); ok {
		if n, err := strconv.Atoi(text); err == nil {
			first = n
		}
	}
	return port < first
}
