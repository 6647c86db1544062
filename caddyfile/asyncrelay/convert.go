package asyncrelay

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.yaml.in/yaml/v4"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// Convert returns a Caddyfile with the settings of a YAML file of async-relay, in
// the order of the file. Comments stay with what they describe; those of keys that
// the Caddyfile does not have go above the service. filename is for warnings. The
// error lists what is wrong with the file, or what a Caddyfile cannot have.
func (a *Adapter) Convert(body []byte, filename string) (text string, warnings []caddyconfig.Warning, err error) {
	rep := &report{file: filename}
	root := parseYAML(rep, blankMarker(body))
	doc := readFile(rep, root)
	if err := rep.err(); err != nil {
		return "", nil, err
	}
	if doc.web != nil {
		rep.warn(root.Line, place{field: webServer}, "the page of a Caddyfile cannot edit the settings")
	}
	servers := make([]caddyfile.Directive, len(doc.services))
	for i, s := range doc.services {
		servers[i] = s.directive()
		servers[i].Gap = i > 0
	}
	top := commentsOf(root, nil)
	var bottom, pageComments []string
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		c := commentsOf(key, value)
		switch {
		case key.Value == "services":
			top.above = append(append(top.above, c.above...), c.end...)
			bottom = append(bottom, c.below...)
		case key.Value == webServer && doc.web != nil:
			pageComments = append(c.all(), innerComments(value)...)
		default:
			bottom = append(append(bottom, c.all()...), innerComments(value)...)
		}
	}
	bottom = append(bottom, top.below...)
	globals := []caddyfile.Directive{{Name: "layer4", Block: servers}}
	whole := []caddyfile.Directive{{Above: top.above, Block: globals}}
	if doc.web != nil {
		site, err := a.site(doc.web)
		if err != nil {
			return "", nil, err
		}
		site.Above = pageComments
		whole[0].Block = append([]caddyfile.Directive{pageGrace}, globals...)
		whole = append(whole, site)
	}
	whole = append(whole, caddyfile.Directive{Above: bottom, Gap: len(bottom) > 0})
	var b strings.Builder
	err = caddyfile.WriteCaddyfile(&b, 0, whole)
	return b.String(), rep.allWarnings(), err
}

// documentMarker matches the line that may precede the document.
var documentMarker = regexp.MustCompile(`\A(?:[ \t]*(?:#[^\n]*|%YAML[^\n]*)?\r?\n)*(---)[ \t]*\r?\n`)

// blankMarker makes the marker of the document blank. The parser takes comments
// below the marker for ones that end the document.
func blankMarker(body []byte) []byte {
	if at := documentMarker.FindSubmatchIndex(body); at != nil {
		body = bytes.Clone(body)
		copy(body[at[2]:at[3]], "   ")
	}
	return body
}

// directive returns the layer4 server of the service.
func (s service) directive() caddyfile.Directive {
	own, above := ownComments(s.node)
	relay := caddyfile.Directive{Name: "relay"}
	for _, d := range s.written().Directives() {
		key := d.Name
		switch key {
		case "backend":
			addBackends(&relay, s.config.Backends, own["backends"], s.node)
			delete(own, "backends")
			continue
		case "cooldown":
			key = "backend_cooldown"
		}
		c := own[key]
		delete(own, key)
		if d.Block != nil || key == "health_check" || key == "event_hook" {
			c.above = append(c.above, addInner(&d, valueOf(s.node, key))...)
		}
		relay.Block = append(relay.Block, c.on(d)...)
	}
	addresses := s.listenAddresses()
	server := caddyfile.Directive{Name: addresses[0], Args: addresses[1:], Above: above}
	for _, key := range keysOf(s.node) { // of the keys that have become something else
		server.Above = append(server.Above, own[key].all()...)
		if inner := valueOf(s.node, key); key == "listen" && inner != nil {
			for i := 0; i+1 < len(inner.Content); i += 2 {
				server.Above = append(server.Above, commentsOf(inner.Content[i], inner.Content[i+1]).all()...)
			}
		}
	}
	server.Block = []caddyfile.Directive{{Name: "route", Block: []caddyfile.Directive{relay}}}
	return server
}

// longLine is the length above which backends get lines of their own.
const longLine = 80

// addBackends adds the backends on the line of the relay, or on lines of their own
// if they have comments or are too long.
func addBackends(d *caddyfile.Directive, texts []string, above comments, node *yaml.Node) {
	var items []*yaml.Node
	commented := len(above.all()) > 0
	if list := valueOf(node, "backends"); list != nil {
		items = list.Content
		commented = commented || slices.ContainsFunc(items, func(n *yaml.Node) bool { return len(commentsOf(n, nil).all()) > 0 })
	}
	if !commented && len(strings.Join(texts, " ")) <= longLine {
		d.Args = texts
		return
	}
	lines := make([]caddyfile.Directive, 0, len(texts))
	for i, text := range texts {
		line := caddyfile.Directive{Name: "backend", Args: []string{text}}
		if i < len(items) {
			lines = append(lines, commentsOf(items[i], nil).on(line)...)
		} else {
			lines = append(lines, line)
		}
	}
	lines[0].Above = append(append(above.above, above.end...), lines[0].Above...)
	d.Block = append(d.Block, lines...)
	if len(above.below) > 0 {
		d.Block = append(d.Block, caddyfile.Directive{Above: above.below})
	}
}

// addInner adds the comments of the keys of a mapping to the options of a block. It
// returns those of keys that the block does not have.
func addInner(d *caddyfile.Directive, mapping *yaml.Node) (rest []string) {
	inner, above := ownComments(mapping)
	rest = above
	var block []caddyfile.Directive
	for _, line := range d.Block {
		c := inner[line.Name]
		delete(inner, line.Name)
		block = append(block, c.on(line)...)
	}
	d.Block = block
	for _, key := range keysOf(mapping) {
		rest = append(rest, inner[key].all()...)
	}
	return rest
}

// comments are the comments of a key and its value, as lines without their mark.
type comments struct{ above, end, below []string }

// all returns all comments in their order.
func (c comments) all() []string { return slices.Concat(c.above, c.end, c.below) }

// on returns a directive with the comments, and what follows it.
func (c comments) on(d caddyfile.Directive) []caddyfile.Directive {
	d.Above = append(c.above, d.Above...)
	d.Comment = strings.Join(c.end, "; ")
	if len(c.below) == 0 {
		return []caddyfile.Directive{d}
	}
	return []caddyfile.Directive{d, {Above: c.below}}
}

// commentsOf returns the comments of a key and its value, each of which may be nil.
func commentsOf(nodes ...*yaml.Node) (c comments) {
	for _, n := range nodes {
		if n == nil {
			continue
		}
		c.above = append(c.above, commentLines(n.HeadComment)...)
		c.end = append(c.end, commentLines(n.LineComment)...)
		c.below = append(c.below, commentLines(n.FootComment)...)
	}
	return c
}

// ownComments returns the comments of each key of a mapping itself, without what is
// merged into it, and those above the mapping.
func ownComments(n *yaml.Node) (byKey map[string]comments, above []string) {
	byKey = make(map[string]comments)
	if n == nil || n.Kind != mappingNode {
		return byKey, nil
	}
	c := commentsOf(n)
	for i := 0; i+1 < len(n.Content); i += 2 {
		byKey[n.Content[i].Value] = commentsOf(n.Content[i], n.Content[i+1])
	}
	return byKey, c.all()
}

// keysOf returns the keys of a mapping in the order of the file.
func keysOf(n *yaml.Node) (keys []string) {
	if n == nil || n.Kind != mappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		keys = append(keys, n.Content[i].Value)
	}
	return keys
}

// valueOf returns the value of a mapping's own key, or nil. An alias has no comments
// of its own.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != mappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// commentLines returns the lines of a comment without their mark. The version
// directive, which the reader comments out, is none.
func commentLines(text string) (lines []string) {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "#")
		if versionComment.MatchString(line) || line == "" && len(lines) == 0 {
			continue
		}
		lines = append(lines, strings.TrimPrefix(line, " "))
	}
	return lines
}
