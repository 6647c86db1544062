package caddyfile

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// Adapter is the config adapter "async-relay": it takes the YAML files of the
// program of that name unchanged and turns them into a whole Caddy config,
// each service into a layer4 server of its name.
//
// The files are YAML 1.1, as that program reads them. What it accepts and can
// not serve is refused, keys nobody knows and features that do not act here are
// warned about, and all problems of a file come in one report, one a line:
//
//	line 7: service "edge": listen.port: must be 1 to 65535, got 65536
type Adapter struct{}

// Adapt implements [caddyconfig.Adapter]. The one option it looks at is
// "filename", which its warnings then carry. The same body always gives the
// same bytes.
func (Adapter) Adapt(body []byte, options map[string]any) ([]byte, []caddyconfig.Warning, error) {
	rep := &report{}
	rep.file, _ = options["filename"].(string)

	services := readFile(rep, body)
	if err := rep.err(); err != nil {
		return nil, nil, err
	}
	out, err := emit(services)
	if err != nil {
		return nil, nil, err
	}
	return out, rep.allWarnings(), nil
}

// readFile reads as much of the file as makes sense, so that one run shows
// every problem. What it returns is of use only if there were none.
func readFile(rep *report, body []byte) []service {
	node := parseYAML(rep, body)
	if node == nil {
		return nil
	}
	root := value{rep: rep, node: node, line: node.Line}
	if root.node.Kind != yamlMapping {
		root.expected(`a mapping with the key "services"`)
		return nil
	}
	fields := root.fields("services", "web_ui", "_meta") // _meta: the original's own notes
	services := readServices(fields)
	if v, ok := fields.get("web_ui"); ok {
		readWebUI(v, services)
	}
	return services
}

var _ caddyconfig.Adapter = Adapter{}
