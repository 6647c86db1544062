package asyncrelay

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestListenAddresses compares the addresses as text, because each part of them
// matters: the relay's networks bind IPv4 on 0.0.0.0 and both families on ::, and
// they keep their sockets over reloads, unlike tcp and udp.
func TestListenAddresses(t *testing.T) {
	for _, tt := range []struct{ address, protocol, want string }{
		{"0.0.0.0", "tcp", "relay+tcp/0.0.0.0:53"},
		{"0.0.0.0", "udp", "relay+udp/0.0.0.0:53"},
		{"0.0.0.0", "both", "relay+tcp/0.0.0.0:53 relay+udp/0.0.0.0:53"},
		{"::", "tcp", "relay+tcp/[::]:53"},
		{"::", "udp", "relay+udp/[::]:53"},
		{"::", "both", "relay+tcp/[::]:53 relay+udp/[::]:53"},
		{"0:0::0", "tcp", "relay+tcp/[::]:53"},
		{"::ffff:0.0.0.0", "both", "relay+tcp/0.0.0.0:53 relay+udp/0.0.0.0:53"},
		{"127.0.0.1", "both", "relay+tcp/127.0.0.1:53 relay+udp/127.0.0.1:53"},
		{"::ffff:127.0.0.1", "tcp", "relay+tcp/127.0.0.1:53"},
		{"::1", "both", "relay+tcp/[::1]:53 relay+udp/[::1]:53"},
		{"fe80::1%eth0", "both", "relay+tcp/[fe80::1%eth0]:53 relay+udp/[fe80::1%eth0]:53"},
		{"LocalHost", "both", "relay+tcp/localhost:53 relay+udp/localhost:53"},
		{"bücher.example", "udp", "relay+udp/xn--bcher-kva.example:53"},
	} {
		body := fmt.Sprintf("services: [{name: a, protocol: %s, listen: {address: %q, port: 53}, backends: ['a:1']}]\n", tt.protocol, tt.address)
		out, _, err := newAdapter().Adapt([]byte(body), nil)
		if err != nil {
			t.Errorf("%s on %s: %v", tt.protocol, tt.address, err)
			continue
		}
		listen := decodeWhole(t, out).Apps.Layer4.Servers["a"].Listen
		if got := strings.Join(listen, " "); got != tt.want {
			t.Errorf("%s on %s: got %s, want %s", tt.protocol, tt.address, got, tt.want)
		}
		for _, text := range listen {
			// Caddy must parse the address, including a zone and brackets.
			if a, err := caddy.ParseNetworkAddress(text); err != nil || a.String() != text {
				t.Errorf("%s: Caddy parses it as %s, %v", text, a, err)
			}
		}
	}
}
