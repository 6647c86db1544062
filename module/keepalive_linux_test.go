package module_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Both connections of a relay have keep-alive, on Caddy's networks and ours, with
// the default, with another interval and without.
func TestKeepAlive(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		for _, test := range []struct {
			option  string
			longest time.Duration // until the next probe; 0: none is due
			atLeast time.Duration
		}{
			{"", 15 * time.Second, 0},
			{"keepalive 10m", 10 * time.Minute, 5 * time.Minute},
			{"keepalive off", 0, 0},
			{"keepalive off\nrescue 16KiB", 0, 0}, // the client becomes a connection of package net
		} {
			t.Run(test.option, func(t *testing.T) {
				addr, backends := startRelay(t, "idle_timeout 30s\n"+test.option)
				client, backend := relayed(t, addr, backends)
				if test.longest == 0 {
					time.Sleep(700 * time.Millisecond) // by then, a timer towards the backend would run
				}
				for name, relaysEnd := range map[string][2]net.Addr{
					"client":  {client.RemoteAddr(), client.LocalAddr()},
					"backend": {backend.RemoteAddr(), backend.LocalAddr()},
				} {
					relaytest.Eventually(t, "the timer towards the "+name, func() bool {
						due, found := keepAliveDue(t, relaysEnd[0], relaysEnd[1])
						return found && due <= test.longest && due >= test.atLeast && (due > 0) == (test.longest > 0)
					})
				}
			})
		}
	})
}

// keepAliveDue returns when a connection of this process sends its next keep-alive
// probe, from the timer column of proc_net_tcp; 0 if no timer runs. found is false
// if another timer runs or the connection is not there.
func keepAliveDue(t *testing.T, local, remote net.Addr) (due time.Duration, found bool) {
	t.Helper()
	file, err := os.Open("/proc/self/net/tcp")
	relaytest.Check(t, err)
	defer file.Close()
	want := []string{procAddr(local), procAddr(remote)}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		columns := strings.Fields(lines.Text())
		if len(columns) < 6 || !slices.Equal(columns[1:3], want) {
			continue
		}
		kind, when, _ := strings.Cut(columns[5], ":")
		ticks, err := strconv.ParseInt(when, 16, 64)
		relaytest.Check(t, err)
		switch kind {
		case "00":
			return 0, true
		case "02": // keep-alive
			return time.Duration(max(ticks, 1)) * 10 * time.Millisecond, true // 0: it is due now
		}
	}
	return 0, false
}

// procAddr formats an IPv4 address as proc_net_tcp does: the bytes of the address
// as a number of this machine.
func procAddr(addr net.Addr) string {
	at := netip.MustParseAddrPort(addr.String())
	ip := at.Addr().As4()
	slices.Reverse(ip[:])
	return fmt.Sprintf("%X:%04X", ip[:], at.Port())
}
