package command

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// adminPort is the port of Caddy's admin API unless a config changes it.
const adminPort = "2019"

// adminAddress returns the address of the admin API in Caddy's notation: the given
// one or, if that is empty, the default. A URL, an address without a port and a port
// alone are understood.
func adminAddress(given string) (string, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(given, nil, "", "")
	if err != nil {
		return "", err
	}
	if scheme, _, isURL := strings.Cut(address, "://"); isURL {
		u, err := url.Parse(address)
		switch {
		case err != nil || u.Host == "":
			return "", fmt.Errorf("--address: must be the address of an admin API, such as localhost:2019, got %q", given)
		case scheme != "http":
			return "", fmt.Errorf("--address: the commands use the admin API over plain HTTP, got %q", given)
		case strings.Trim(u.Path, "/") != "":
			return "", fmt.Errorf("--address: must not have a path, got %q; write %s", given, u.Host)
		}
		address = u.Host
	}
	network, rest, hasNetwork := strings.Cut(address, "/")
	switch {
	case !hasNetwork:
		return withAdminPort(address), nil
	case network == "tcp" || network == "tcp4" || network == "tcp6":
		return network + "/" + withAdminPort(rest), nil
	}
	return address, nil // such as unix//run/caddy.sock
}

// withAdminPort adds what is missing of host:port. Text that has too many colons is
// returned unchanged.
func withAdminPort(address string) string {
	bare := strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	switch {
	case address == "":
		return address
	case strings.Trim(address, "0123456789") == "":
		return net.JoinHostPort("localhost", address)
	case !strings.Contains(address, ":") || net.ParseIP(bare) != nil:
		return net.JoinHostPort(bare, adminPort)
	case strings.HasPrefix(address, ":"):
		return "localhost" + address
	}
	return address
}

// advice returns what to do when a request has failed because there is no program at
// the address of the admin API. It begins with a colon and is empty otherwise.
func (c client) advice() string {
	if _, err := caddy.ParseNetworkAddress(c.address); err != nil || answers(c.address) {
		return ""
	}
	return ": is Caddy running, is its admin endpoint there? Set its address with --address or $CADDY_ADMIN"
}
