package caddyfile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Resolver is a DNS server of the option resolvers.
type Resolver struct {
	// Text is the server as the admin API shows it: "ip:port", "tls://host:port" or
	// a URL.
	Text string

	Scheme  string // "" (UDP and TCP), "tls" or "https"
	Addr    string // host:port; empty with https
	TLSName string // with tls: the name in the certificate
	URL     string // with https
}

const resolverExpected = "must be an IP address, ip:port, tls://host[:port][#name] or https://host[:port]/path"

// parseResolver parses a DNS server: an address, or a URL with the scheme tls or https.
func parseResolver(text string) (Resolver, error) {
	if strings.ContainsFunc(text, blankOrControl) {
		return Resolver{}, fmt.Errorf("%q: %s", text, resolverExpected)
	}
	scheme, rest, isURL := strings.Cut(text, "://")
	var r Resolver
	var err error
	switch {
	case !isURL:
		r, err = parsePlainResolver(text)
	case strings.EqualFold(scheme, "tls"):
		r, err = parseTLSResolver(rest)
	case strings.EqualFold(scheme, "https"):
		r, err = parseHTTPSResolver(text)
	default:
		err = errors.New(resolverExpected)
	}
	if err != nil {
		return Resolver{}, fmt.Errorf("%q: %w", text, err)
	}
	return r, nil
}

// parsePlainResolver parses "ip" or "ip:port". An IPv6 address needs brackets only if
// a port follows.
func parsePlainResolver(text string) (Resolver, error) {
	const dns = "53"
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		a, err = netip.ParseAddrPort(text + ":" + dns)
	}
	if err != nil {
		a, err = netip.ParseAddrPort("[" + text + "]:" + dns)
	}
	if err != nil || a.Port() == 0 || !plainZone(a.Addr()) {
		return Resolver{}, errors.New(resolverExpected + ", with a port from 1 to 65535")
	}
	addr := netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
	return Resolver{Text: addr, Addr: addr}, nil
}

// parseTLSResolver parses "host[:port][#name]". The name is that in the certificate,
// by default the host.
func parseTLSResolver(text string) (Resolver, error) {
	text, name, named := strings.Cut(text, "#")
	host, port, err := splitURLHost(text, "853")
	if err != nil {
		return Resolver{}, err
	}
	if !named {
		name = host
	} else if _, _, err := parseHost(name); err != nil {
		return Resolver{}, err
	}
	addr := net.JoinHostPort(host, port)
	r := Resolver{Text: "tls://" + addr, Scheme: "tls", Addr: addr, TLSName: name}
	if named {
		r.Text += "#" + name
	}
	return r, nil
}

func parseHTTPSResolver(text string) (Resolver, error) {
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return Resolver{}, errors.New(resolverExpected)
	}
	if _, _, err := splitURLHost(u.Host, "443"); err != nil {
		return Resolver{}, err
	}
	if u.Path == "" || u.Path == "/" {
		return Resolver{}, errors.New("the path is missing, which is mostly /dns-query")
	}
	u.Scheme = "https"
	return Resolver{Text: u.String(), Scheme: "https", URL: u.String()}, nil
}

// splitURLHost splits and checks "host[:port]" of a URL. The host is a name or an
// address, with brackets around IPv6.
func splitURLHost(text, defaultPort string) (host, port string, err error) {
	host, port = text, defaultPort
	if colon := strings.LastIndexByte(text, ':'); colon > strings.LastIndexByte(text, ']') {
		host, port = text[:colon], text[colon+1:]
	}
	n, err := parsePort(port)
	if err != nil {
		return "", "", err
	}
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		addr, err := parseBracketed(strings.TrimSuffix(inner, "]"))
		return addr.String(), strconv.Itoa(int(n)), err
	}
	host, addr, err := parseHost(host)
	if err == nil && addr.IsValid() {
		host = addr.String()
	}
	return host, strconv.Itoa(int(n)), err
}
