package asyncrelay

import (
	"sync"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.yaml.in/yaml/v4"
)

// Adapter implements the config adapter "async-relay". It converts the YAML files
// of the program async-relay, unchanged, to a complete Caddy config. Each service
// becomes a layer4 server with the name of the service, and web_ui becomes an HTTP
// server with the handler relay_page.
//
// The files are YAML 1.1, as async-relay reads them. Values that async-relay
// accepts but cannot serve are errors. Unknown keys and unsupported features are
// warnings. All problems of a file are reported together, one per line:
//
//	line 7: service "edge": listen.port: must be 1 to 65535, got 65536
//
// The zero value is ready for use. An Adapter remembers the hashes of passwords, so
// that equal files become equal configs.
type Adapter struct {
	mu     sync.Mutex // guards the fields below
	key    [32]byte   // random; set with hashes
	hashes map[[32]byte]string
	hash   func(password []byte) ([]byte, error) // nil: Caddy's bcrypt
}

// Adapt implements [caddyconfig.Adapter]. Its only option is "filename", the path
// of the file that has this body. If [RuntimeFile] is next to it and was made from
// exactly this body, the settings are taken from there, and a warning says so.
// Without a filename, the page can show the services but not edit them.
func (a *Adapter) Adapt(body []byte, options map[string]any) ([]byte, []caddyconfig.Warning, error) {
	filename, _ := options["filename"].(string)
	if filename == "" || filename == "-" { // "-": the standard input
		return a.adapt(body, filename, pageJSON{})
	}
	source, err := a.ReadSource(filename, body)
	if err != nil {
		return nil, nil, err
	}
	config, warnings, err := a.AdaptSource(source)
	return config, append(source.Notes, warnings...), err
}

// adapt converts a body. page has the file that the page edits, if there is one.
func (a *Adapter) adapt(body []byte, filename string, page pageJSON) ([]byte, []caddyconfig.Warning, error) {
	rep := &report{file: filename}
	doc := readFile(rep, parseYAML(rep, body))
	if err := rep.err(); err != nil {
		return nil, nil, err
	}
	out, err := a.emit(doc, page)
	if err != nil {
		return nil, nil, err
	}
	return out, rep.allWarnings(), nil
}

// document holds the settings of a file.
type document struct {
	services []service
	web      *webUI // nil: no page
}

// readFile reads as much of the file as possible, so that one run reports every
// problem. The document is complete only if rep has no problems. node may be nil.
func readFile(rep *report, node *yaml.Node) (doc document) {
	if node == nil {
		return doc
	}
	root := value{rep: rep, node: node, line: node.Line}
	if root.node.Kind != mappingNode {
		root.mustBe(`a mapping with the key "services"`)
		return doc
	}
	fields := root.fields("services", "web_ui", metaKey)
	doc.services = readServices(fields)
	if v, ok := fields.get("web_ui"); ok {
		doc.web = readWebUI(v, doc.services)
	}
	return doc
}

var _ caddyconfig.Adapter = (*Adapter)(nil)
