package caddyfile

import (
	"cmp"
	"net/netip"
	"reflect"
	"strings"
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
		ConnectTimeout: 5 * time.Second, IdleTimeout: 5 * time.Minute, DNSTTL: time.Hour,
		ShutdownTimeout: 10 * time.Second, AccessLog: "off",
	}
	if got := plain.Options(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	full := Config{
		Name: "x", Backends: []string{"a:1"}, ConnectTimeout: lasting(1), IdleTimeout: lasting(2), Cooldown: lasting(3),
		DNSTTL: lasting(4), Resolvers: []string{"1.1.1.1", "::ffff:1.1.1.2", "[::1]:5353", "fe80::1%eth0"}, UDPReplyTimeout: lasting(5),
		UDPResponses: number(6), MaxUDPSessions: number(7), GracePeriod: lasting(8), ShutdownTimeout: lasting(9),
		MaxConnections: number(10), MaxConnectionsPerIP: number(11), AccessLog: "all", ProxyProtocol: "v2", ProxyProtocolUDP: "every",
		HealthCheck: &HealthCheck{Interval: lasting(12), Timeout: lasting(13), Rise: number(14), Send: `A\r\n`, Expect: "hex:00ff"},
		EventHook:   &EventHook{Command: "c", Args: []string{"a"}, Events: []string{"backend_recovered"}, Timeout: lasting(15)},
		Failback:    true,
	}
	want = Options{
		Service: "x", Named: true, Backends: []Backend{{Text: "a:1", Host: "a", Port: 1}},
		ConnectTimeout: 1, IdleTimeout: 2, Cooldown: 3, DNSTTL: 4, UDPReplyTimeout: 5, UDPResponses: 6, MaxUDPSessions: 7,
		GracePeriod: 8, ShutdownTimeout: 9,
		MaxConnections: 10, MaxConnectionsPerIP: 11, AccessLog: "all", ProxyProtocol: 2, ProxyProtocolEvery: true,
		HealthCheck: &HealthCheckOptions{TCP: true, Interval: 12, Timeout: 13, Rise: 14, Send: []byte("A\r\n"), Expect: []byte{0, 0xff}},
		EventHook:   &EventHookOptions{Command: "c", Args: []string{"a"}, Events: []string{"backend_recovered"}, Timeout: 15},
		Failback:    true,
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("1.1.1.1:53"), netip.MustParseAddrPort("1.1.1.2:53"),
			netip.MustParseAddrPort("[::1]:5353"), netip.MustParseAddrPort("[fe80::1%eth0]:53")},
	}
	if got := full.Options(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	empty := Config{HealthCheck: &HealthCheck{}, EventHook: &EventHook{Command: "c"}, ProxyProtocol: "v1"}.Options()
	if want := (&HealthCheckOptions{TCP: true, Interval: time.Minute, Timeout: 5 * time.Second, Rise: 2}); !reflect.DeepEqual(empty.HealthCheck, want) {
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

	// Zero is a setting of its own where the default is another.
	if got := (Config{ShutdownTimeout: lasting(0)}).Options().ShutdownTimeout; got != 0 {
		t.Errorf("shutdown_timeout 0 became %s", got)
	}
}

// TestOneSetOfFields keeps the struct, the grammar and Diff in step.
func TestOneSetOfFields(t *testing.T) {
	inStruct := fieldsOf(t, reflect.TypeFor[Config](), "")
	var inDiff []string
	for _, s := range (Config{}).settings() {
		inDiff = append(inDiff, s.field)
	}
	if !reflect.DeepEqual(inStruct, inDiff) {
		t.Errorf("fields of Config %v, of Diff %v", inStruct, inDiff)
	}

	// The command line of the hook are the arguments of event_hook.
	written := map[string]string{"backends": "backend", "event_hook.command": "event_hook", "event_hook.args": "event_hook"}
	names := make(map[string]bool)
	for _, field := range inStruct {
		name := cmp.Or(written[field], field)
		names[name] = true
		outer, inner, nested := strings.Cut(name, ".")
		o, ok := options[outer]
		if nested {
			o, ok = o.block[inner]
		}
		if !ok || o.name != name {
			t.Errorf("%s: can not be written in a Caddyfile", field)
		}
	}
	inGrammar := len(options)
	for _, o := range options {
		inGrammar += len(o.block)
	}
	if inGrammar != len(names) {
		t.Errorf("%d options for %d fields", inGrammar, len(names))
	}
}

// fieldsOf has the fields of an object behind the object.
func fieldsOf(t *testing.T, object reflect.Type, prefix string) (names []string) {
	for i := range object.NumField() {
		name, rest, _ := strings.Cut(object.Field(i).Tag.Get("json"), ",")
		if rest != "omitempty" {
			t.Errorf("%s: written even when absent", name)
		}
		names = append(names, prefix+name)
		if inner := object.Field(i).Type; inner.Kind() == reflect.Pointer && inner.Elem().Kind() == reflect.Struct {
			names = append(names, fieldsOf(t, inner.Elem(), prefix+name+".")...)
		}
	}
	return names
}
