package handler

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// Clients is a rule that decides by address which clients a relay serves. It does
// not change.
type Clients struct {
	allow *bart.Lite // nil: all addresses
	deny  *bart.Lite
}

// NewClients returns the rule that serves the addresses of allow that are not in
// deny. An empty allow stands for all addresses. It returns nil if both are empty.
func NewClients(allow, deny []netip.Prefix) *Clients {
	if len(allow) == 0 && len(deny) == 0 {
		return nil
	}
	c := &Clients{deny: new(bart.Lite)}
	for _, prefix := range deny {
		c.deny.Insert(prefix)
	}
	if len(allow) > 0 {
		c.allow = new(bart.Lite)
		for _, prefix := range allow {
			c.allow.Insert(prefix)
		}
	}
	return c
}

// serves reports whether a client of the address is served. The address may be
// IPv4-mapped and have a zone. A client without an IP address is not served unless
// only deny is set. A nil rule serves all clients.
func (c *Clients) serves(ip netip.Addr) bool {
	if c == nil {
		return true
	}
	ip = ip.Unmap().WithZone("")
	return !c.deny.Lookup(ip) && (c.allow == nil || c.allow.Lookup(ip))
}
