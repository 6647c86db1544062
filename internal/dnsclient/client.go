package dnsclient

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Config holds the settings of a [Client].
type Config struct {
	// Servers lists the DNS servers to query instead of the system's. Default:
	// those of the system, in the system's way.
	//
	// They are queried in their order. The next one is queried at once if one
	// fails, and in parallel if it has not answered within 200 ms. The first
	// answer or "no such host" is the result.
	//
	// Names are queried as written, as if they ended with a dot: search domains do
	// not apply. The hosts file of the host still applies.
	Servers []Server

	// Families selects the addresses. Default: [Both].
	Families Families
}

// Families selects the address families of a lookup, and the one whose addresses
// come first.
type Families uint8

// The selections.
const (
	Both       Families = iota // in the order of RFC 6724
	PreferIPv4                 // both, IPv4 first
	PreferIPv6
	OnlyIPv4
	OnlyIPv6
)

// Client queries DNS. Create it with [New] and close it.
type Client struct {
	servers  []exchanger
	families Families
}

// New returns a client. It opens no connection before the first query.
func New(cfg Config) *Client {
	c := &Client{families: cfg.Families}
	for _, s := range cfg.Servers {
		c.servers = append(c.servers, s.exchanger())
	}
	return c
}

// Close closes idle connections. Queries must have ended.
func (c *Client) Close() {
	for _, s := range c.servers {
		s.close()
	}
}

// Addrs holds the addresses of a name.
type Addrs struct {
	List []netip.Addr // in the order to try them

	// TTL is the least TTL of the records, or 0 if it is unknown.
	TTL time.Duration

	// Partial reports that only one address family was answered. The server failed
	// or dropped the query for the other one.
	Partial bool
}

// Addrs looks the addresses of a host up. A host that ends with a dot is looked up
// without search domains.
func (c *Client) Addrs(ctx context.Context, host string) (Addrs, error) {
	l := c.newLookup(ctx, host)
	network := "ip"
	switch c.families {
	case OnlyIPv4:
		network = "ip4"
	case OnlyIPv6:
		network = "ip6"
	default:
		l.bothFamilies = true
	}
	list, err := l.resolver().LookupNetIP(ctx, network, host)
	if err != nil {
		return Addrs{}, l.failure(err)
	}
	for i := range list {
		list[i] = list[i].Unmap() // those of the hosts file are IPv4-mapped
	}
	switch c.families {
	case PreferIPv4:
		slices.SortStableFunc(list, func(a, b netip.Addr) int { return isIPv6(a) - isIPv6(b) })
	case PreferIPv6:
		slices.SortStableFunc(list, func(a, b netip.Addr) int { return isIPv6(b) - isIPv6(a) })
	}
	a := Addrs{List: list}
	a.TTL, a.Partial = l.result()
	return a, nil
}

func isIPv6(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// Target is one target of an SRV record.
type Target struct {
	Host     string // lower case, ends with a dot
	Port     uint16
	Priority uint16
	Weight   uint16
}

// errNoService is the reason of an SRV record with the target ".", which says that
// the service is not available (RFC 2782).
const errNoService = `the SRV record has the target ".", the service is not available`

// errNoPort is the reason when no SRV record has a port.
const errNoPort = "all SRV records have the port 0"

// Targets looks the SRV records of a name up, for example
// "_postgresql._tcp.example.com". It returns the targets in order: the least
// priority first, of equal priorities the greatest weight, and then by name and
// port. Records with the port 0 are left out: some directories list services without
// a port so. ttl is the least TTL of the records, or 0 if it is unknown.
func (c *Client) Targets(ctx context.Context, name string) (targets []Target, ttl time.Duration, err error) {
	l := c.newLookup(ctx, name)
	_, records, err := l.resolver().LookupSRV(ctx, "", "", name)
	if len(records) == 0 && err == nil {
		err = &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	if len(records) == 0 {
		return nil, 0, l.failure(err)
	}
	for _, r := range records {
		host := strings.ToLower(r.Target)
		if host == "." {
			return nil, 0, &net.DNSError{Err: errNoService, Name: name, IsNotFound: true}
		}
		if r.Port != 0 {
			targets = append(targets, Target{Host: host, Port: r.Port, Priority: r.Priority, Weight: r.Weight})
		}
	}
	if len(targets) == 0 {
		return nil, 0, &net.DNSError{Err: errNoPort, Name: name, IsNotFound: true}
	}
	slices.SortFunc(targets, compareTargets)
	ttl, _ = l.result()
	return targets, ttl, nil
}

// compareTargets orders targets as described at [Client.Targets].
func compareTargets(a, b Target) int {
	switch {
	case a.Priority != b.Priority:
		return int(a.Priority) - int(b.Priority)
	case a.Weight != b.Weight:
		return int(b.Weight) - int(a.Weight)
	case a.Host != b.Host:
		return strings.Compare(a.Host, b.Host)
	}
	return int(a.Port) - int(b.Port)
}

// newLookup returns the state of a lookup. Its queries end with ctx.
func (c *Client) newLookup(ctx context.Context, host string) *lookup {
	return &lookup{client: c, ctx: ctx, host: host, questions: make(map[question]*asked)}
}

// resolver returns Go's resolver for one lookup. With servers of its own it must be
// the one that is written in Go, because others do not use Dial.
func (l *lookup) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: len(l.client.servers) > 0, Dial: l.dial}
}

// failure returns the error of a lookup. It names the servers that were queried and
// the host as the caller has written it.
func (l *lookup) failure(err error) error {
	var dnsErr *net.DNSError
	if !errors.As(err, &dnsErr) || len(l.client.servers) == 0 {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !dnsErr.IsNotFound && len(l.errs) > 0 {
		return errors.Join(l.errs...)
	}
	corrected := *dnsErr
	corrected.Name, corrected.Server = l.host, l.server
	return &corrected
}

// rcodeError describes a reply code that is neither success nor "no such host".
func rcodeError(rcode int) string {
	if text, known := dns.RcodeToString[rcode]; known {
		return "server misbehaving: " + text
	}
	return "server misbehaving"
}
