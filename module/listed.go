package module

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/upstream"
)

// listenAddress identifies an address of one of our networks. Two spellings of an
// IP address are equal. A name differs from its address, because it is not looked
// up: by the time the listener opens it may have another one.
type listenAddress struct {
	network, host string
	port          uint16
}

func newListenAddress(network, host string, port uint16) listenAddress {
	if host == "" {
		host = "::" // both mean all addresses
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.Unmap().String()
	} else if _, activated := activatedName(host); !activated { // whose names have upper case too
		host = strings.ToLower(host)
	}
	return listenAddress{network, host, port}
}

func (a listenAddress) String() string {
	if _, activated := activatedName(a.host); activated {
		return a.network + "/" + a.host
	}
	return a.network + "/" + net.JoinHostPort(a.host, strconv.Itoa(int(a.port)))
}

// listedAddress is an address that a server lists.
type listedAddress struct {
	address listenAddress
	text    string // as configured; it may be a range of ports
}

// listedAddresses returns the addresses of our networks that a server lists, each
// port of a range for itself. Addresses that layer4 rejects are left out.
func listedAddresses(server *layer4.Server) (listed []listedAddress) {
	for text, addr := range parsedAddresses(server) {
		if addr.Network != networkTCP && addr.Network != networkUDP {
			continue
		}
		for port := addr.StartPort; port <= addr.EndPort; port++ {
			listed = append(listed, listedAddress{newListenAddress(addr.Network, addr.Host, uint16(port)), text})
		}
	}
	return listed
}

// parsedAddresses returns the addresses that a server lists, by their text. It
// parses them as layer4 does, and leaves out those that layer4 rejects.
func parsedAddresses(server *layer4.Server) iter.Seq2[string, caddy.NetworkAddress] {
	return func(yield func(string, caddy.NetworkAddress) bool) {
		replacer := caddy.NewReplacer()
		for _, text := range server.Listen {
			text = replacer.ReplaceAll(text, "")
			if addr, err := caddy.ParseNetworkAddress(text); err == nil && !yield(text, addr) {
				return
			}
		}
	}
}

// checkListed reports the addresses of a layer4 app that cannot be listened on, as
// far as their text shows it. Without it, `caddy validate` would accept them,
// because it opens no listeners.
func checkListed(app *layer4.App) error {
	var problems []error
	first := make(map[listenAddress]string) // who lists the address
	reported := make(map[[2]string]bool)    // two ranges can have many ports in common
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		server := app.Servers[name]
		for text, addr := range parsedAddresses(server) {
			if err := checkNetwork(addr); err != nil {
				problems = append(problems, fmt.Errorf("layer4 server %q lists %s: %w", name, text, err))
			}
		}
		for _, listed := range listedAddresses(server) {
			by := fmt.Sprintf("layer4 server %q as %s", name, listed.text)
			other, twice := first[listed.address]
			if !twice {
				first[listed.address] = by
			} else if pair := [2]string{other, by}; !reported[pair] && (listed.address.port != 0 || strings.HasPrefix(listed.address.host, "fd/")) {
				reported[pair] = true
				problems = append(problems, fmt.Errorf("%s is listed more than once: by %s and by %s; list it in one", listed.address, other, by))
			}
		}
	}
	return errors.Join(problems...)
}

// checkNetwork returns an error for a network that looks like one of ours and is
// not, or for one of ours without a port or with a wrong name of a socket.
func checkNetwork(addr caddy.NetworkAddress) error {
	name, activated := activatedName(addr.Host)
	switch ours := addr.Network == networkTCP || addr.Network == networkUDP; {
	case !ours && strings.HasPrefix(addr.Network, "relay"):
		return fmt.Errorf("unknown network %s, use %s or %s; 0.0.0.0 is IPv4 only", addr.Network, networkTCP, networkUDP)
	case ours && activated:
		return checkActivated(name, addr.StartPort)
	case ours && addr.StartPort == 0:
		return errors.New("a port from 1 to 65535 is needed")
	}
	return nil
}

// transportOf returns the transport of a network, which is one of ours or of
// Caddy's.
func transportOf(network string) upstream.Network {
	if strings.HasPrefix(strings.TrimPrefix(network, "relay+"), "udp") {
		return upstream.UDP
	}
	return upstream.TCP
}
