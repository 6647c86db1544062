package caddyfile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Backend is one target of a relay, or the targets that SRV records list.
type Backend struct {
	// Text is the backend as logs show it: "host:port". A name is spelled as in
	// the config. An address has its canonical spelling, with brackets around
	// IPv6. ParseBackend returns the same Backend for it.
	Text string

	// Host is the name to look up or the address to dial. A name is in
	// lower-case ASCII (punycode if it has other characters). An IPv6 address
	// includes its zone.
	Host string

	Port uint16 // 0 with ClientPort and SRV

	// ClientPort means that the port is the one that the client addressed, as in
	// "host:{port}".
	ClientPort bool

	// SRV is the name whose SRV records list the targets that the backend stands
	// for, as in "srv/_pg._tcp.example.com". Text is then "srv/" and the name, and
	// Host is empty. "" for other backends.
	SRV string

	// Addr is the address if Host is one, else the zero Addr. IPv4-mapped IPv6
	// addresses are converted to IPv4.
	Addr netip.Addr
}

// Identity returns the backend without its spelling. Backends that are the same have
// equal identities.
func (b Backend) Identity() Backend {
	b.Text = ""
	return b
}

// srvPrefix precedes the name of SRV records.
const srvPrefix = "srv/"

// networkPrefix matches a network in Caddy's notation, as in "tcp/example.com:80".
var networkPrefix = regexp.MustCompile(`^(?i:[a-z][a-z0-9+]*)/[^/]`)

// clientPort is the port of a backend that has the one that the client addressed.
const clientPort = "{port}"

// ParseBackend parses "host:port", "ipv4:port", "[ipv6]:port" or "srv/name". The port
// may be "{port}". Its errors quote the text and say what was expected.
func ParseBackend(text string) (Backend, error) {
	b, err := parseBackend(text)
	if err != nil {
		return Backend{}, fmt.Errorf("%q: %w", text, err)
	}
	return b, nil
}

func parseBackend(text string) (Backend, error) {
	if name, isSRV := strings.CutPrefix(text, srvPrefix); isSRV {
		return parseSRV(name)
	}
	host, port, err := splitBackend(text)
	if err != nil {
		return Backend{}, err
	}
	b := Backend{ClientPort: port == clientPort}
	if !b.ClientPort {
		if b.Port, err = parsePort(port); err != nil {
			return Backend{}, err
		}
		port = strconv.Itoa(int(b.Port))
	}

	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner = strings.TrimSuffix(inner, "]")
		if b.Addr, err = parseBracketed(inner); err != nil {
			return Backend{}, err
		}
	} else if b.Host, b.Addr, err = parseHost(host); err != nil {
		return Backend{}, err
	}

	shown := host
	if b.Addr.IsValid() {
		b.Host = b.Addr.String()
		shown = b.Host
	}
	b.Text = net.JoinHostPort(shown, port)
	return b, nil
}

// parseSRV parses the name of SRV records.
func parseSRV(text string) (Backend, error) {
	switch {
	case text == "":
		return Backend{}, errors.New("the name is missing; expected srv/_service._proto.name")
	case !utf8.ValidString(text) || strings.ContainsFunc(text, blankOrControl):
		return Backend{}, errors.New("blanks and control characters are not allowed; expected srv/_service._proto.name")
	case strings.Contains(text, ":"):
		return Backend{}, errors.New("a port is not allowed, because the SRV records have it; expected srv/_service._proto.name")
	}
	name, addr, err := parseHost(text)
	if err != nil {
		return Backend{}, err
	}
	if addr.IsValid() {
		return Backend{}, errors.New("an address has no SRV records; expected srv/_service._proto.name")
	}
	return Backend{Text: srvPrefix + text, SRV: name}, nil
}

// splitBackend splits text at the colon before the port. The host keeps its
// brackets. Common mistakes that would otherwise be reported as an odd host get
// errors of their own.
func splitBackend(text string) (host, port string, err error) {
	switch {
	case text == "":
		return "", "", errors.New("empty; expected host:port")
	case !utf8.ValidString(text):
		return "", "", errors.New("not valid UTF-8; expected host:port")
	case strings.ContainsFunc(text, blankOrControl):
		return "", "", errors.New("blanks and control characters are not allowed; expected host:port")
	case strings.Contains(text, "://"):
		return "", "", errors.New("a URL is not a backend; expected host:port")
	case networkPrefix.MatchString(text):
		return "", "", errors.New("a network prefix is not allowed, because the network is that of the client; expected host:port")
	case strings.Contains(text, "@"):
		return "", "", errors.New("a user name is not allowed; expected host:port")
	}

	if strings.HasPrefix(text, "[") {
		end := strings.LastIndexByte(text, ']')
		if end < 0 {
			return "", "", errors.New("closing bracket is missing; expected [ipv6]:port")
		}
		host, rest := text[:end+1], text[end+1:]
		if rest == "" {
			return "", "", errors.New("port is missing; expected [ipv6]:port")
		}
		if rest[0] != ':' {
			return "", "", errors.New("only a colon and a port may follow the bracket; expected [ipv6]:port")
		}
		return host, rest[1:], nil
	}

	// 2001:db8::1:80 is ambiguous: 80 may be the port or a part of the address.
	host, port, found := strings.Cut(text, ":")
	switch {
	case strings.Contains(text, "::") || strings.Count(text, ":") > 6:
		return "", "", errors.New("an IPv6 address needs brackets and a port, as in [2001:db8::1]:80")
	case strings.Contains(port, ":"):
		return "", "", errors.New("more than one colon; expected host:port, or [ipv6]:port")
	case !found:
		return "", "", errors.New("port is missing; expected host:port")
	case host == "":
		return "", "", errors.New("host is empty; expected host:port")
	}
	return host, port, nil
}

func blankOrControl(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// parsePort accepts ASCII digits only: no sign, no blanks, no separators.
func parsePort(text string) (uint16, error) {
	if text == "" {
		return 0, errors.New("port is empty; expected a number from 1 to 65535")
	}
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("port must be a number from 1 to 65535, got %q", text)
		}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port must be 1 to 65535, got %s", text)
	}
	return uint16(n), nil
}

func parseBracketed(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil && !strings.Contains(text, ":"):
		return netip.Addr{}, errors.New("only IPv6 addresses go in brackets; write a name as example.com:80")
	case err != nil || !plainZone(addr):
		return netip.Addr{}, fmt.Errorf("%q is not an IPv6 address", text)
	case addr.Is4():
		return netip.Addr{}, fmt.Errorf("only IPv6 addresses go in brackets; write %s without them", text)
	}
	return addr.Unmap(), nil
}

// plainZone reports whether the zone of addr can be written in brackets with a
// port after them.
func plainZone(addr netip.Addr) bool { return !strings.ContainsAny(addr.Zone(), "[]%/") }

// idnaProfile converts a name in any script to ASCII, as browsers do before a
// lookup.
var idnaProfile = idna.New(
	idna.MapForLookup(),
	idna.Transitional(false),
	idna.BidiRule(),
	idna.StrictDomainName(false),
)

// parseHost parses an IPv4 address or a name. It returns a name in lower-case
// ASCII.
func parseHost(text string) (string, netip.Addr, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Is4() {
		return text, addr, nil
	}
	name := strings.ToLower(text)
	if strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }) {
		ascii, err := idnaProfile.ToASCII(name)
		if err != nil {
			return "", netip.Addr{}, fmt.Errorf("%q is not a host name: %w", text, err)
		}
		name = ascii
	}
	if err := checkName(name); err != nil {
		return "", netip.Addr{}, fmt.Errorf("%q is not a host name: %w", text, err)
	}
	return name, netip.Addr{}, nil
}

// checkName applies the rules of DNS names. Underscores are allowed, because
// container networks use them. A name may end with one dot, which disables the
// system's search domains.
func checkName(name string) error {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return fmt.Errorf("a name has at most 253 characters, got %d", len(name))
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		switch {
		case label == "":
			return errors.New("a part between dots is empty")
		case len(label) > 63:
			return fmt.Errorf("a part between dots has at most 63 characters, got %d", len(label))
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return fmt.Errorf("%q is not allowed in a name", c)
			}
		}
	}
	// The system's resolver would read such a name as an abbreviated address:
	// 127.1 as 127.0.0.1, but 10 as 0.0.0.10.
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return errors.New("it ends with a number, but is not an IPv4 address (four numbers from 0 to 255)")
	}
	return nil
}
