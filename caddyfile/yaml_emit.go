package caddyfile

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// The part of Caddy's JSON that the adapter writes.
type (
	caddyJSON struct {
		Apps appsJSON `json:"apps"`
	}
	appsJSON struct {
		HTTP   *httpJSON  `json:"http,omitempty"`
		Layer4 layer4JSON `json:"layer4"`
	}
	layer4JSON struct {
		Servers map[string]serverJSON `json:"servers"`
	}
	serverJSON struct {
		Listen []string    `json:"listen"`
		Routes []routeJSON `json:"routes"`
	}
	routeJSON struct {
		Handle []relayJSON `json:"handle"`
	}
)

// relayJSON is a config that is encoded as a handler. Its durations are text, so
// that the output of "caddy adapt" is readable.
type relayJSON Config

func (r relayJSON) MarshalJSON() ([]byte, error) {
	return appendFields([]byte(`{"handler":"relay"`), reflect.ValueOf(Config(r)))
}

// appendFields appends the fields of a struct that are not empty, and the closing
// brace of an object. before is the object up to there.
func appendFields(before []byte, object reflect.Value) (out []byte, err error) {
	out = before
	for i := range object.NumField() {
		v := object.Field(i)
		if v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 {
			continue
		}
		var text []byte
		d, isDuration := v.Interface().(*caddy.Duration)
		ttl, isTTL := v.Interface().(DNSTTL)
		switch {
		case isDuration:
			text, err = json.Marshal(duration(time.Duration(*d)))
		case isTTL:
			text, err = json.Marshal(ttl.lifetime().String())
		case v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct:
			text, err = appendFields([]byte("{"), v.Elem())
		default:
			text, err = json.Marshal(v.Interface())
		}
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(object.Type().Field(i).Tag.Get("json"), ",")
		if out[len(out)-1] != '{' {
			out = append(out, ',')
		}
		out = append(out, `"`+name+`":`...)
		out = append(out, text...)
	}
	return append(out, '}'), nil
}

// braceEscaper escapes braces, which would otherwise be placeholders. The YAML
// files have no placeholders.
var braceEscaper = strings.NewReplacer("{", `\{`, "}", `\}`)

// written returns the config of the service as Caddy reads it.
func (s service) written() Config {
	return s.config.replaceTexts(func(_, text string) string { return braceEscaper.Replace(text) })
}

// emit returns the Caddy config of a file as JSON. page has the file that the page
// edits, if there is one.
func (a *Adapter) emit(doc document, page pageJSON) ([]byte, error) {
	var apps appsJSON
	if doc.web != nil {
		var err error
		if apps.HTTP, err = a.emitWeb(doc.web, page); err != nil {
			return nil, err
		}
	}
	servers := make(map[string]serverJSON, len(doc.services))
	for _, s := range doc.services {
		servers[s.name] = serverJSON{
			Listen: s.listenAddresses(),
			Routes: []routeJSON{{Handle: []relayJSON{relayJSON(s.written())}}},
		}
	}
	apps.Layer4.Servers = servers
	return json.Marshal(caddyJSON{apps})
}
