package caddyfile

import (
	"cmp"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/caddyserver/caddy/v2"
)

// TestJSON decodes configs with the decoder that Caddy uses.
func TestJSON(t *testing.T) {
	var c Config
	text := `{"backends": ["a:1"], "failback": true, "max_connections": 5, "proxy_protocol": "v2",
		"health_check": {"interval": "30s", "send": "PING\r\n\\x00"}, "event_hook": {"command": "notify", "timeout": "1d"}}`
	relaytest.Check(t, caddy.StrictUnmarshalJSON([]byte(text), &c))
	relaytest.Check(t, c.Validate())
	o := c.Options()
	if o.HealthCheck.Interval != 30*time.Second || string(o.HealthCheck.Send) != "PING\r\n\x00" || o.Failback != FailbackOn {
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

func TestJSONRejectsUnknownFields(t *testing.T) {
	for _, text := range []string{
		`{"health_check": {"enabled": true}}`, `{"event_hook": {"command": "x", "enabled": true}}`, `{"enabled": true}`,
	} {
		if err := caddy.StrictUnmarshalJSON([]byte(text), new(Config)); err == nil || !strings.Contains(err.Error(), `"enabled"`) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestAllFieldsAreCovered checks that the struct, the grammar and Diff have the
// same fields.
func TestAllFieldsAreCovered(t *testing.T) {
	inStruct := fieldsOf(t, reflect.TypeFor[Config](), "")
	var inDiff []string
	for _, s := range (Config{}).settings() {
		inDiff = append(inDiff, s.field)
	}
	if !reflect.DeepEqual(inStruct, inDiff) {
		t.Errorf("fields of Config: %v, of Diff: %v", inStruct, inDiff)
	}

	// The fields whose option has another name. The command line of the hook is
	// the arguments of event_hook, and the statuses are arguments of http.
	optionNames := map[string]string{
		"backends": "backend", "event_hook.command": "event_hook", "event_hook.args": "event_hook", "health_check.http_status": "health_check.http",
	}
	names := make(map[string]bool)
	for _, field := range inStruct {
		name := cmp.Or(optionNames[field], field)
		names[name] = true
		outer, inner, nested := strings.Cut(name, ".")
		o, ok := options[outer]
		if nested {
			o, ok = o.block[inner]
		}
		if !ok || o.name != name {
			t.Errorf("%s: no Caddyfile option", field)
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

// fieldsOf returns the JSON names of the fields of a struct. The fields of a
// nested object follow the object.
func fieldsOf(t *testing.T, object reflect.Type, prefix string) (names []string) {
	for i := range object.NumField() {
		name, rest, _ := strings.Cut(object.Field(i).Tag.Get("json"), ",")
		if rest != "omitempty" && rest != "omitzero" {
			t.Errorf("%s: missing omitempty or omitzero", name)
		}
		names = append(names, prefix+name)
		if inner := object.Field(i).Type; inner.Kind() == reflect.Pointer && inner.Elem().Kind() == reflect.Struct {
			names = append(names, fieldsOf(t, inner.Elem(), prefix+name+".")...)
		}
	}
	return names
}
