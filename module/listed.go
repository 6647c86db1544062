package module

import (
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
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
	}
	return listenAddress{network, host, port}
}

// listedAddress is an address that a server lists.
type listedAddress struct {
	address listenAddress
	text    string // as configured; it may be a range of ports
}

// listedAddresses returns the addresses of our networks that a server lists, each
// port of a range for itself. Addresses that layer4 rejects are left out.
func listedAddresses(server *layer4.Server) (listed []listedAddress) {
	replacer := caddy.NewReplacer()
	for _, text := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(replacer.ReplaceAll(text, "")) // as layer4 does
		if err != nil || addr.Network != networkTCP && addr.Network != networkUDP {
			continue
		}
		for port := addr.StartPort; port <= addr.EndPort; port++ {
			listed = append(listed, listedAddress{newListenAddress(addr.Network, addr.Host, uint16(port)), text})
		}
	}
	return listed
}
