package caddyfile

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	plain := Config{Backends: []string{"a:1", "[::ffff:1.2.3.4]:2"}}
	want := Options{
		Service: "a:1,[::ffff:1.2.3.4]:2",
		Backends: []Backend{
			{Text: "a:1", Host: "a", Port: 1},
			{Text: "1.2.3.4:2", Host: "1.2.3.4", Port: 2, Addr: netip.MustParseAddr("1.2.3.4")},
		},
		ConnectTimeout: 5 * time.Second, IdleTimeout: 5 * time.Minute, DNSTTL: DNSLifetime{Fixed: time.Hour},
		ShutdownTimeout: 10 * time.Second, KeepAlive: 15 * time.Second, AccessLog: "off",
	}
	if got := plain.Options(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	full := Config{
		Name: "x", Backends: []string{"a:1"}, ConnectTimeout: durationPtr(1), IdleTimeout: durationPtr(2), Cooldown: durationPtr(3),
		DNSTTL: DNSTTL{Fixed: 4}, Prefer: "ipv6", Only: "ipv4", Resolvers: []string{"1.1.1.1", "::ffff:1.1.1.2", "[::1]:5353", "fe80::1%eth0"}, UDPReplyTimeout: durationPtr(5),
		UDPResponses: intPtr(6), MaxUDPSessions: intPtr(7), GracePeriod: durationPtr(8), ShutdownTimeout: durationPtr(9), KeepAlive: durationPtr(12),
		MaxConnections: intPtr(10), MaxConnectionsPerIP: intPtr(11), AccessLog: "all", ProxyProtocol: "v2", ProxyProtocolUDP: "every",
		HealthCheck: &HealthCheck{Interval: durationPtr(12), Timeout: durationPtr(13), Rise: intPtr(14), Send: `A\r\n`, Expect: "hex:00ff"},
		EventHook:   &EventHook{Command: "c", Args: []string{"a"}, Events: []string{"backend_recovered"}, Timeout: durationPtr(15)},
		Failback:    FailbackMove,
	}
	want = Options{
		Service: "x", Named: true, Backends: []Backend{{Text: "a:1", Host: "a", Port: 1}},
		ConnectTimeout: 1, IdleTimeout: 2, Cooldown: 3, DNSTTL: DNSLifetime{Fixed: 4}, Prefer: "ipv6", Only: "ipv4", UDPReplyTimeout: 5, UDPResponses: 6, MaxUDPSessions: 7,
		GracePeriod: 8, ShutdownTimeout: 9, KeepAlive: 12,
		MaxConnections: 10, MaxConnectionsPerIP: 11, AccessLog: "all", ProxyProtocol: 2, ProxyProtocolEvery: true,
		HealthCheck: &HealthCheckOptions{
			TCP: true, Interval: 12, Timeout: 13, Rise: 14, Kind: "send and expect",
			Exchange: Exchange{Send: []byte("A\r\n"), Expect: [][]byte{{0, 0xff}}},
		},
		EventHook: &EventHookOptions{Command: "c", Args: []string{"a"}, Events: []string{"backend_recovered"}, Timeout: 15},
		Failback:  FailbackMove,
		Resolvers: []Resolver{
			{Text: "1.1.1.1:53", Addr: "1.1.1.1:53"}, {Text: "1.1.1.2:53", Addr: "1.1.1.2:53"},
			{Text: "[::1]:5353", Addr: "[::1]:5353"}, {Text: "[fe80::1%eth0]:53", Addr: "[fe80::1%eth0]:53"},
		},
	}
	if got := full.Options(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	empty := Config{HealthCheck: &HealthCheck{}, EventHook: &EventHook{Command: "c"}, ProxyProtocol: "v1"}.Options()
	if want := (&HealthCheckOptions{TCP: true, Interval: time.Minute, Timeout: 5 * time.Second, Rise: 2, Kind: "connect"}); !reflect.DeepEqual(empty.HealthCheck, want) {
		t.Errorf("got  %+v\nwant %+v", empty.HealthCheck, want)
	}
	wantHook := &EventHookOptions{
		Command: "c", Events: []string{"backend_failed", "backend_recovered", "all_backends_unavailable"}, Timeout: 30 * time.Second,
	}
	if !reflect.DeepEqual(empty.EventHook, wantHook) {
		t.Errorf("got  %+v\nwant %+v", empty.EventHook, wantHook)
	}
	if empty.ProxyProtocol != 1 || empty.ProxyProtocolEvery {
		t.Errorf("proxy protocol %d, every %v", empty.ProxyProtocol, empty.ProxyProtocolEvery)
	}

	// The default timeout is not above the interval.
	for interval, want := range map[time.Duration]time.Duration{time.Second: time.Second, 5 * time.Second: 5 * time.Second, time.Minute: 5 * time.Second} {
		if got := (Config{HealthCheck: &HealthCheck{Interval: durationPtr(interval)}}).Options().HealthCheck.Timeout; got != want {
			t.Errorf("interval %s: default timeout %s, want %s", interval, got, want)
		}
	}

	// Zero differs from an absent setting with another default.
	if got := (Config{ShutdownTimeout: durationPtr(0)}).Options().ShutdownTimeout; got != 0 {
		t.Errorf("got shutdown_timeout %s, want 0", got)
	}
}
