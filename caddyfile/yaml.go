package caddyfile

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.yaml.in/yaml/v4"
)

// Adapter implements the config adapter "async-relay". It converts the YAML files
// of the program async-relay, unchanged, to a complete Caddy config. Each service
// becomes a layer4 server with the name of the service.
//
// The files are YAML 1.1, as async-relay reads them. Values that async-relay
// accepts but cannot serve are errors. Unknown keys and unsupported features are
// warnings. All problems of a file are reported together, one per line:
//
//	line 7: service "edge": listen.port: must be 1 to 65535, got 65536
type Adapter struct{}

// Adapt implements [caddyconfig.Adapter]. Its only option is "filename", which
// its warnings then contain. Equal bodies give equal output.
func (Adapter) Adapt(body []byte, options map[string]any) ([]byte, []caddyconfig.Warning, error) {
	rep := &report{}
	rep.file, _ = options["filename"].(string)

	services, _ := readFile(rep, body)
	if err := rep.err(); err != nil {
		return nil, nil, err
	}
	out, err := emit(services)
	if err != nil {
		return nil, nil, err
	}
	return out, rep.allWarnings(), nil
}

// readFile reads as much of the file as possible, so that one run reports every
// problem. The services are complete only if rep has no problems. tree is the root
// of the file.
func readFile(rep *report, body []byte) (services []service, tree *yaml.Node) {
	node := parseYAML(rep, body)
	if node == nil {
		return nil, nil
	}
	root := value{rep: rep, node: node, line: node.Line}
	if root.node.Kind != yamlMapping {
		root.mustBe(`a mapping with the key "services"`)
		return nil, nil
	}
	fields := root.fields("services", "web_ui", "_meta") // async-relay writes _meta itself
	services = readServices(fields)
	if v, ok := fields.get("web_ui"); ok {
		readWebUI(v, services)
	}
	return services, node
}

var _ caddyconfig.Adapter = Adapter{}
