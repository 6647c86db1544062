package asyncrelay

import (
	"encoding/json"
	"strings"

	"github.com/async-relay/caddy-relay/caddyfile"
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
type relayJSON caddyfile.Config

func (r relayJSON) MarshalJSON() ([]byte, error) {
	fields, err := caddyfile.Config(r).ReadableJSON()
	if err != nil {
		return nil, err
	}
	return append([]byte(`{"handler":"relay",`), fields[1:]...), nil // a service has fields: its name, at least
}

// braceEscaper escapes braces, which would otherwise be placeholders. The YAML
// files have no placeholders.
var braceEscaper = strings.NewReplacer("{", `\{`, "}", `\}`)

// written returns the config of the service as Caddy reads it.
func (s service) written() caddyfile.Config {
	return s.config.ReplaceTexts(func(_, text string) string { return braceEscaper.Replace(text) })
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
