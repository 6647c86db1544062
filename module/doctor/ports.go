package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/internal/listen"
)

// checkPorts binds each port of the plan for an instant.
func (e *examination) checkPorts() {
	seen := make(map[string]bool)
	for _, address := range e.plan.listen {
		if !seen[address] {
			seen[address] = true
			e.checkAddress(address)
		}
	}
}

// checkAddress checks all ports of an address. Of a range, it reports the first that
// is not free.
func (e *examination) checkAddress(address string) {
	network, rest := splitAddress(address)
	if network == "" {
		e.ok("port", "%s: not checked, it is no port", address)
		return
	}
	replaced, err := caddy.NewReplacer().ReplaceOrErr(rest, true, true)
	var at caddy.NetworkAddress
	if err == nil {
		at, err = caddy.ParseNetworkAddress(network + "/" + replaced)
	}
	if err != nil {
		e.fail("port", "", "%s: %v", address, err)
		return
	}
	for offset := range at.PortRangeSize() {
		port := at.StartPort + offset
		err := bind(e.ctx, network, at.Host, port)
		if err == nil {
			continue
		}
		e.reportBusy(address, network, uint16(port), err)
		return
	}
	e.ok("port", "%s: free", address)
}

func (e *examination) reportBusy(address, network string, port uint16, err error) {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		holders := holdersOf(network, port)
		mine := slices.Contains(e.running.listen, address)
		for _, h := range holders {
			if mine && h.pid != 0 {
				e.pid = h.pid
			}
		}
		who := describeHolders(holders)
		if mine {
			e.ok("port", "%s: in use by the running Caddy (%s)", address, who)
			return
		}
		e.fail("port", cmp.Or(adviceOn(holders), "stop that process, or choose another port"), "%s: in use by %s", address, who)
	case errors.Is(err, fs.ErrPermission):
		e.fail("port", cmp.Or(listen.BindAdvice(port), "run doctor with the rights of Caddy"), "%s: permission denied", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		e.fail("port", "use an address of this machine, or none for all", "%s: this machine does not have the address", address)
	default:
		e.fail("port", "", "%s: %v", address, err)
	}
}

// bind listens on a port and closes the socket. An address of IPv4 has no sockets of
// IPv6.
func bind(ctx context.Context, network, host string, port uint) error {
	if ip := net.ParseIP(host); ip != nil && ip.To4() != nil {
		network += "4"
	}
	at := net.JoinHostPort(host, strconv.Itoa(int(port)))
	var config net.ListenConfig
	if strings.HasPrefix(network, "udp") {
		conn, err := config.ListenPacket(ctx, network, at)
		if err == nil {
			conn.Close()
		}
		return err
	}
	ln, err := config.Listen(ctx, network, at)
	if err == nil {
		ln.Close()
	}
	return err
}

// holder is a process that has a port.
type holder struct {
	pid  int    // 0: the process is not visible to this user
	name string // of its command
	uid  uint64 // of the socket's owner
}

func (h holder) String() string {
	if h.pid == 0 {
		return fmt.Sprintf("a process of user id %d", h.uid)
	}
	return fmt.Sprintf("%s, process %d", h.name, h.pid)
}

func describeHolders(all []holder) string {
	if len(all) == 0 {
		return "a process that is not visible from here"
	}
	names := make([]string, len(all))
	for i, h := range all {
		names[i] = h.String()
	}
	return strings.Join(names, "; ")
}

// adviceOn returns what to do to learn more, or "".
func adviceOn(all []holder) string {
	if len(all) == 0 || slices.ContainsFunc(all, func(h holder) bool { return h.pid == 0 }) {
		return "run doctor as root to see the process; stop it, or choose another port"
	}
	return ""
}
