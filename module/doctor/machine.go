package doctor

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// fewDescriptors is the limit below which a relay may soon refuse clients: some 2,000
// TCP relays, which need two each.
const fewDescriptors = 4096

func (e *examination) checkDescriptors() {
	limit, whose := uint64(netio.DescriptorLimit()), "of this shell"
	if n := openFilesOf(e.pid); e.pid != 0 && n > 0 {
		limit, whose = n, "of the running Caddy"
	}
	need := uint64(0)
	for _, r := range e.plan.relays {
		need += 2 * uint64(r.options.MaxConnections)
	}
	const raise = "raise LimitNOFILE of the systemd unit, --ulimit nofile of Docker, or ulimit -n"
	switch {
	case limit == 0:
		e.ok("descriptors", "no limit")
	case need > limit:
		e.warn("descriptors", raise, "limit %s %d, but max_connections may need %d, two for each connection", whose, limit, need)
	case limit < fewDescriptors:
		e.warn("descriptors", raise, "limit %s %d, enough for about %d TCP connections", whose, limit, limit/2)
	default:
		e.ok("descriptors", "limit %s %d, enough for about %d TCP connections", whose, limit, limit/2)
	}
}

// wantedBuffer is the size of the socket buffers of relay+udp/.
const wantedBuffer = 4 << 20

// fewPorts is the number of ephemeral ports below which UDP sessions or connections
// to one backend may run out of them. Linux has 28,232 by default.
const fewPorts = 20000

func (e *examination) checkSysctls() {
	if runtime.GOOS != "linux" {
		return
	}
	if slices.ContainsFunc(e.plan.listen, func(address string) bool { return strings.HasPrefix(strings.ToLower(address), "relay+udp/") }) {
		for _, name := range []string{"net.core.rmem_max", "net.core.wmem_max"} {
			e.checkBuffer(name)
		}
	}
	if text, ok := netio.Sysctl("net.ipv4.ip_local_port_range"); ok {
		var low, high int
		if _, err := fmt.Sscan(text, &low, &high); err == nil {
			n := max(high-low+1, 0)
			message := fmt.Sprintf("net.ipv4.ip_local_port_range = %d %d: at most %d connections to each backend and %d UDP sessions", low, high, n, netio.SessionLimit())
			if n < fewPorts {
				e.warn("sysctl", `sysctl -w net.ipv4.ip_local_port_range="10240 65535"`, "%s", message)
			} else {
				e.ok("sysctl", "%s", message)
			}
		}
	}
	e.checkMigration()
}

func (e *examination) checkBuffer(name string) {
	text, ok := netio.Sysctl(name)
	n, err := strconv.Atoi(text)
	switch {
	case !ok || err != nil:
		e.ok("sysctl", "%s: this system does not have it, as in some containers", name)
	case n < wantedBuffer:
		e.warn("sysctl", fmt.Sprintf("sysctl -w %s=%d, unless Caddy has CAP_NET_ADMIN", name, wantedBuffer), "%s = %d: bursts of datagrams may be lost before they are counted", name, n)
	default:
		e.ok("sysctl", "%s = %d", name, n)
	}
}

// checkMigration checks tcp_migrate_req, which Caddy's own network needs to lose no
// waiting connection when a reload closes the socket of the config before.
func (e *examination) checkMigration() {
	const name = "net.ipv4.tcp_migrate_req"
	own := slices.ContainsFunc(e.plan.listen, func(address string) bool {
		network, _ := splitAddress(address)
		return network == "tcp" && !strings.HasPrefix(strings.ToLower(address), "relay+")
	})
	text, _ := netio.Sysctl(name)
	switch {
	case !own:
		e.ok("sysctl", "%s = %s: not needed, relay+tcp/ keeps its sockets over reloads", name, orUnknown(text))
	case text == "1":
		e.ok("sysctl", "%s = 1", name)
	default:
		e.warn("sysctl", "sysctl -w "+name+"=1, or listen on relay+tcp/", "%s = %s: a reload resets the connections that wait in the socket of a tcp/ address", name, orUnknown(text))
	}
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

func (e *examination) checkClock() {
	const why = "times in logs, the journal and certificates are wrong"
	now := time.Now()
	if built := buildTime(); now.Before(built) {
		e.fail("clock", "set the clock, and run a time service such as systemd-timesyncd or chrony", "%s is before this binary was built, %s: %s", now.Format(time.RFC3339), built.Format(time.RFC3339), why)
		return
	}
	switch synchronized, known := netio.ClockSynchronized(); {
	case !known:
		e.ok("clock", "%s", now.Format(time.RFC3339))
	case !synchronized:
		e.warn("clock", "run a time service such as systemd-timesyncd or chrony", "%s, and the kernel knows of no time service", now.Format(time.RFC3339))
	default:
		e.ok("clock", "%s, synchronized", now.Format(time.RFC3339))
	}
}

// buildTime returns the time of the commit that the binary was built from, or zero.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}
