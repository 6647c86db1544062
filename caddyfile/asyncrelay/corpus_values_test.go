package asyncrelay

import (
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/caddyserver/caddy/v2"
)

func checkServices(t *testing.T, out []byte, want []corpusService) {
	t.Helper()
	got := decodeWhole(t, out)
	if len(got.Apps.Layer4.Servers) != len(want) {
		t.Errorf("%d servers for %d services", len(got.Apps.Layer4.Servers), len(want))
	}
	for _, s := range want {
		name := textOf(s.Name)
		server, ok := got.Apps.Layer4.Servers[name]
		if !ok {
			t.Errorf("no server %q", name)
			continue
		}
		networks := map[string]string{}
		for _, text := range server.Listen {
			a, err := caddy.ParseNetworkAddress(text)
			if err != nil || a.StartPort != a.EndPort || int(a.StartPort) != s.Listen.Port || a.Host != textOf(s.Listen.Address) {
				t.Errorf("listens on %s (%v), want %v port %d", text, err, s.Listen.Address, s.Listen.Port)
			}
			networks[a.Network] = a.Host
		}
		_, tcp := networks["relay+tcp"]
		_, udp := networks["relay+udp"]
		if tcp != (s.Protocol != "udp") || udp != (s.Protocol != "tcp") || len(networks) != len(server.Listen) {
			t.Errorf("listens on %v, want %s", server.Listen, s.Protocol)
		}

		relay := server.Routes[0].Handle[0]
		if relay.Handler != "relay" || relay.Name != name {
			t.Errorf("handler %q named %q", relay.Handler, relay.Name)
		}
		if len(relay.Backends) != len(s.Backends) {
			t.Fatalf("backends %q, want %v", relay.Backends, s.Backends)
		}
		for i, text := range relay.Backends {
			b, err := caddyfile.ParseBackend(text)
			relaytest.Check(t, err)
			if want := net.JoinHostPort(s.Backends[i].Host, strconv.Itoa(s.Backends[i].Port)); b.Text != want {
				t.Errorf("backend %s, want %s", b.Text, want)
			}
		}
		if got := time.Duration(*relay.Cooldown).Seconds(); got != s.Cooldown {
			t.Errorf("cooldown %v, want %v", got, s.Cooldown)
		}
		checkHealthAndHook(t, relay.Config.Options(), s)
	}
}

// checkHealthAndHook compares health check and event hook. The config has them
// only if they had an effect in async-relay.
func checkHealthAndHook(t *testing.T, got caddyfile.Options, want corpusService) {
	t.Helper()
	runs := want.HealthCheck != nil && want.HealthCheck.Enabled && want.Protocol != "udp"
	if check := got.HealthCheck; runs != (check != nil) {
		t.Errorf("health check %+v, want %+v", check, want.HealthCheck)
	} else if runs && (check.Interval.Seconds() != want.HealthCheck.Interval || check.Timeout.Seconds() != want.HealthCheck.Timeout ||
		len(check.Send)+len(check.Expect) != 0) {
		t.Errorf("health check %+v, want %+v", check, want.HealthCheck)
	}

	runs = want.EventHook != nil && len(want.EventHook.Events) > 0
	if runs != (got.EventHook != nil) {
		t.Fatalf("event hook %+v, want %+v", got.EventHook, want.EventHook)
	}
	if !runs {
		return
	}
	hook := got.EventHook
	if hook.Command != want.EventHook.Command || hook.Timeout.Seconds() != want.EventHook.Timeout {
		t.Errorf("event hook %+v, want %+v", hook, want.EventHook)
	}
	if texts := textsOf(want.EventHook.Args); !slices.Equal(hook.Args, texts) {
		t.Errorf("arguments %q, want %q", hook.Args, texts)
	}
	events := textsOf(want.EventHook.Events)
	slices.Sort(events)
	if sorted := slices.Sorted(slices.Values(hook.Events)); !slices.Equal(sorted, slices.Compact(events)) {
		t.Errorf("events %q, want %q", sorted, events)
	}
}

func textsOf(values []any) (texts []string) {
	for _, v := range values {
		texts = append(texts, textOf(v))
	}
	return texts
}

func textOf(v any) string {
	if n, ok := v.(float64); ok {
		return strconv.FormatFloat(n, 'f', -1, 64)
	}
	text, _ := v.(string)
	return text
}
