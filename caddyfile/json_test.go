package caddyfile

import (
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestJSON reads objects as Caddy does.
func TestJSON(t *testing.T) {
	var c Config
	text := `{"backends": ["a:1"], "failback": true, "max_connections": 5, "proxy_protocol": "v2",
		"health_check": {"interval": "30s", "send": "PING\r\n\\x00"}, "event_hook": {"command": "notify", "timeout": "1d"}}`
	if err := caddy.StrictUnmarshalJSON([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	o := c.Options()
	if o.HealthCheck.Interval != 30*time.Second || string(o.HealthCheck.Send) != "PING\r\n\x00" || !o.Failback {
		t.Errorf("health check %+v, failback %v", o.HealthCheck, o.Failback)
	}
	if o.EventHook.Command != "notify" || o.EventHook.Timeout != 24*time.Hour || o.MaxConnections != 5 || o.ProxyProtocol != 2 {
		t.Errorf("%+v, hook %+v", o, o.EventHook)
	}

	for text, on := range map[string]bool{`{}`: false, `{"health_check": null}`: false, `{"health_check": {}}`: true} {
		var c Config
		if err := caddy.StrictUnmarshalJSON([]byte(text), &c); err != nil || (c.Options().HealthCheck != nil) != on {
			t.Errorf("%s: %+v, %v", text, c.HealthCheck, err)
		}
	}
}

func TestJSONRefusesUnknownFields(t *testing.T) {
	for _, text := range []string{
		`{"health_check": {"enabled": true}}`, `{"event_hook": {"command": "x", "enabled": true}}`, `{"enabled": true}`,
	} {
		if err := caddy.StrictUnmarshalJSON([]byte(text), new(Config)); err == nil || !strings.Contains(err.Error(), `"enabled"`) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
