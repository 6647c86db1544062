package caddyfile

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The networks of listen addresses: the relay's own, which survive reloads and
// take IPv4 alone on an IPv4 address.
const (
	networkTCP = "relay+tcp"
	networkUDP = "relay+udp"
)

// listenAddress is where a service, or the web page, listens.
type listenAddress struct {
	host string     // name or address; empty where none could be read
	addr netip.Addr // valid where host is an address
	port uint16     // 0 where none could be read
}

const addressExpected = `an address, "0.0.0.0" for all of IPv4, "::" for all, or a host name`

func readListen(v value) (l listenAddress) {
	f, ok := v.mapping("address", "port")
	if !ok {
		return l
	}
	if v, ok := f.need("address", addressExpected); ok {
		l.host, l.addr = readAddress(v)
	}
	if v, ok := f.need("port", "1 to 65535"); ok {
		l.port, _ = v.port()
	}
	return l
}

func readAddress(v value) (string, netip.Addr) {
	text, ok := v.text(addressExpected)
	if !ok {
		return "", netip.Addr{}
	}
	if addr, err := netip.ParseAddr(text); err == nil && plainZone(addr) && !strings.ContainsFunc(text, blankOrControl) {
		addr = addr.Unmap()
		return addr.String(), addr
	}
	switch inner := strings.Trim(text, "[] \t"); {
	case inner != "" && inner != text:
		v.fail("must be %s, got %s; write %q", addressExpected, quoted(text), inner)
	case strings.Contains(text, ":"):
		v.fail("must be %s, without a port, got %s", addressExpected, quoted(text))
	default:
		host, addr, err := parseHost(text)
		if err == nil {
			return host, addr
		}
		v.expected(addressExpected)
	}
	return "", netip.Addr{}
}

func (l listenAddress) String() string {
	return net.JoinHostPort(l.host, strconv.Itoa(int(l.port)))
}

// networks is where the service listens, in Caddy's notation.
func (s service) networks() (addresses []string) {
	if s.tcp {
		addresses = append(addresses, networkTCP+"/"+s.listen.String())
	}
	if s.udp {
		addresses = append(addresses, networkUDP+"/"+s.listen.String())
	}
	return addresses
}

// overlaps reports whether a client could be meant for both addresses. The
// kernel may let both bind all the same, and then deals clients out at random
// or to the narrower one, which no file says it wants.
func (l listenAddress) overlaps(m listenAddress) bool {
	switch {
	case l.port != m.port || l.port == 0 || l.host == "" || m.host == "":
		return false
	case l.host == m.host || l.all() || m.all():
		return true
	}
	return l.allIPv4() && !m.addr.Is6() || m.allIPv4() && !l.addr.Is6()
}

func (l listenAddress) all() bool     { return l.addr.Is6() && l.addr.IsUnspecified() }
func (l listenAddress) allIPv4() bool { return l.addr.Is4() && l.addr.IsUnspecified() }

// checkClashes reports each service that listens where one before it does.
func checkClashes(rep *report, services []service) {
	onPort := make(map[uint16][]service)
	for _, s := range services {
		for _, first := range onPort[s.listen.port] {
			protocol := "tcp"
			if !s.tcp || !first.tcp {
				protocol = "udp"
			}
			if (s.tcp && first.tcp || s.udp && first.udp) && s.listen.overlaps(first.listen) {
				rep.fail(s.line, place{s.label, "listen"}, "%s on %s is taken by %s on line %d, which listens on %s",
					protocol, s.listen, first.label, first.line, first.listen)
				break
			}
		}
		onPort[s.listen.port] = append(onPort[s.listen.port], s)
	}
}
