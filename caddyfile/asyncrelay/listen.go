package asyncrelay

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// The networks of listen addresses. They are the relay's own, which keep their
// sockets over reloads and accept only IPv4 on an IPv4 address.
const (
	networkTCP = "relay+tcp"
	networkUDP = "relay+udp"
)

// listenAddress is the address on which a service or the web page listens.
type listenAddress struct {
	host string     // name or address; empty if it could not be read
	addr netip.Addr // valid if host is an address
	port uint16     // 0 if it could not be read
}

const addressExpected = `an address, "0.0.0.0" for all of IPv4, "::" for all, or a host name`

func readListen(v value) (l listenAddress) {
	f, ok := v.mapping("address", "port")
	if !ok {
		return l
	}
	if v, ok := f.required("address", addressExpected); ok {
		l.host, l.addr = readAddress(v)
	}
	if v, ok := f.required("port", "1 to 65535"); ok {
		l.port, _ = v.port()
	}
	return l
}

func readAddress(v value) (string, netip.Addr) {
	text, ok := v.text(addressExpected)
	if !ok {
		return "", netip.Addr{}
	}
	// Hosts are written as in a backend, but without brackets and a port.
	if b, err := caddyfile.ParseBackend(net.JoinHostPort(text, "1")); err == nil {
		return b.Host, b.Addr
	}
	switch inner := strings.Trim(text, "[] \t"); {
	case inner != "" && inner != text:
		v.fail("must be %s, got %s; write %q", addressExpected, caddyfile.Quoted(text), inner)
	case strings.Contains(text, ":"):
		v.fail("must be %s, without a port, got %s", addressExpected, caddyfile.Quoted(text))
	default:
		v.mustBe(addressExpected)
	}
	return "", netip.Addr{}
}

func (l listenAddress) String() string {
	return net.JoinHostPort(l.host, strconv.Itoa(int(l.port)))
}

// listenAddresses returns the addresses of the service in Caddy's notation.
func (s service) listenAddresses() (addresses []string) {
	if s.tcp {
		addresses = append(addresses, networkTCP+"/"+s.listen.String())
	}
	if s.udp {
		addresses = append(addresses, networkUDP+"/"+s.listen.String())
	}
	return addresses
}

// overlaps reports whether a client can reach both addresses on one network. The
// kernel may nevertheless allow both sockets. It then distributes clients at
// random or gives them to the more specific address.
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

// checkListenConflicts reports each service whose listen address overlaps with
// that of an earlier service.
func checkListenConflicts(rep *report, services []service) {
	onPort := make(map[uint16][]service)
	for _, s := range services {
		for _, first := range onPort[s.listen.port] {
			protocol := "tcp"
			if !s.tcp || !first.tcp {
				protocol = "udp"
			}
			if (s.tcp && first.tcp || s.udp && first.udp) && s.listen.overlaps(first.listen) {
				rep.fail(s.line, place{s.label, "listen"}, "%s on %s conflicts with %s on line %d, which listens on %s",
					protocol, s.listen, first.label, first.line, first.listen)
				break
			}
		}
		onPort[s.listen.port] = append(onPort[s.listen.port], s)
	}
}
