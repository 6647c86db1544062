package asyncrelay

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.yaml.in/yaml/v4"
)

// Hidden replaces secrets in [Source.JSON]: the password of the page and the
// arguments of commands. In an edit it stands for the current value.
const Hidden = "********"

// hidden reports whether the value at a place is secret.
func hidden(at place) bool {
	return at.field == "web_ui.auth.password" || at.field == "services.event_hook.args"
}

// JSON returns the settings as JSON in the shape of the file, without _meta and with
// [Hidden] in place of secrets.
func (s Source) JSON() ([]byte, error) {
	settings, err := shownSettings(s.Text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.File(), err)
	}
	return settings, nil
}

// shownSettings returns the settings of a text as JSON, without secrets.
func shownSettings(text []byte) ([]byte, error) {
	rep := &report{}
	root := parseYAML(rep, text)
	if err := rep.err(); err != nil {
		return nil, err
	}
	return appendJSON(nil, settingsOf(root), place{}, hidden), nil
}

// EditSource returns the source with other settings, which are given as JSON in the
// shape of the file. If they have errors, the error is of type [Problems] and has the
// lines of the JSON text. Nothing is written: the text of the result is that of the
// runtime file to be. config is the Caddy config of the settings. Settings without
// web_ui keep the page as it is, so that an edit does not remove it by mistake.
func (a *Adapter) EditSource(old Source, body []byte) (edited Source, config []byte, warnings []caddyconfig.Warning, err error) {
	rep := &report{}
	root := parseJSON(rep, body)
	if root != nil {
		before := parseYAML(&report{}, old.Text)
		restoreHidden(rep, root, before)
		keepWebUI(root, before)
	}
	doc := readFile(rep, root)
	if err := rep.err(); err != nil {
		return Source{}, nil, nil, err
	}
	settings, err := a.emit(doc, pageJSON{ConfigFile: old.Path})
	if err != nil {
		return Source{}, nil, nil, err
	}

	edited = old
	edited.Edited, edited.Notes = true, nil
	edited.Text, err = yaml.Marshal(withMeta(settingsOf(root), meta{hash: MainHash(old.Main), source: MetaSourceEdit}))
	if err != nil {
		return Source{}, nil, nil, fmt.Errorf("write the settings as YAML: %w", err)
	}
	// The file is what the next start reads, so it must mean what was asked for.
	again, err := a.Settings(edited)
	if err == nil && !bytes.Equal(again, settings) {
		err = errors.New("they read back as something else")
	}
	if err != nil {
		return Source{}, nil, nil, fmt.Errorf("write the settings as YAML: %w", err)
	}
	config, _, err = a.AdaptSource(edited)
	return edited, config, rep.allWarnings(), err
}

// settingsOf returns a mapping without the key _meta. Any other node is returned as
// it is.
func settingsOf(root *yaml.Node) *yaml.Node {
	if root.Kind != mappingNode {
		return root
	}
	settings := *root
	settings.Content = nil
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value != metaKey {
			settings.Content = append(settings.Content, root.Content[i], root.Content[i+1])
		}
	}
	return &settings
}

// withMeta returns settings with the key _meta in front.
func withMeta(settings *yaml.Node, m meta) *yaml.Node {
	added := &yaml.Node{Kind: mappingNode, Tag: "!!map", Content: []*yaml.Node{
		textNode(metaHashKey, 0), textNode(m.hash, 0), textNode(metaSourceKey, 0), textNode(m.source, 0),
	}}
	whole := *settings
	whole.Content = append([]*yaml.Node{textNode(metaKey, 0), added}, settings.Content...)
	return &whole
}

// restoreHidden replaces each [Hidden] in an edit by the current value. A service of
// the edit corresponds to the one of its name, or, if it has a new name, to the one
// at its index.
func restoreHidden(rep *report, root, before *yaml.Node) {
	restore(rep, place{field: "web_ui.auth.password"}, child(root, "web_ui", "auth", "password"), child(before, "web_ui", "auth", "password"))
	services, old := items(child(root, "services")), items(child(before, "services"))
	for i, service := range services {
		var from *yaml.Node
		if i < len(old) && !named(services, nameOf(old[i])) {
			from = old[i]
		}
		for _, o := range old {
			if name := nameOf(o); name != "" && name == nameOf(service) {
				from = o
			}
		}
		oldArgs := items(child(from, "event_hook", "args"))
		for j, arg := range items(child(service, "event_hook", "args")) {
			var value *yaml.Node
			if j < len(oldArgs) {
				value = oldArgs[j]
			}
			restore(rep, place{service: serviceLabel(service, i), field: "event_hook.args"}, arg, value)
		}
	}
}

// restore replaces a node by another one if it is [Hidden]. value may be nil, as may
// be the node.
func restore(rep *report, at place, n, value *yaml.Node) {
	if n == nil || n.Kind != scalarNode || n.Value != Hidden {
		return
	}
	if value == nil || value.Kind != scalarNode {
		rep.fail(n.Line, at, "%q stands for the current value, and there is none; write the value", Hidden)
		return
	}
	restored := textNode(resolveScalar(value).text, n.Line)
	restored.Style = yaml.DoubleQuotedStyle
	*n = *restored
}

// keepWebUI adds the current key web_ui to an edit that lacks it.
func keepWebUI(root, before *yaml.Node) {
	web := child(before, "web_ui")
	if web != nil && root.Kind == mappingNode && child(root, "web_ui") == nil {
		root.Content = append(root.Content, textNode("web_ui", root.Line), flatten(web, root.Line))
	}
}

// flatten returns a copy of a node without aliases and merge keys. All of it is on one
// line.
func flatten(n *yaml.Node, line int) *yaml.Node {
	n = resolveAlias(n)
	flat := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Style: n.Style &^ yaml.FlowStyle, Value: n.Value, Line: line}
	switch n.Kind {
	case mappingNode:
		for _, p := range pairs(n) {
			flat.Content = append(flat.Content, textNode(p.key, line), flatten(p.val, line))
		}
	case sequenceNode:
		for _, item := range n.Content {
			flat.Content = append(flat.Content, flatten(item, line))
		}
	}
	return flat
}

// child returns the value of a path of keys. It returns nil if there is none.
func child(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		if n == nil {
			return nil
		}
		var found *yaml.Node
		if n = resolveAlias(n); n.Kind == mappingNode {
			for _, p := range pairs(n) {
				if p.key == key {
					found = p.val
				}
			}
		}
		n = found
	}
	return n
}

// items returns the elements of a list, or none if n is something else or nil.
func items(n *yaml.Node) (list []*yaml.Node) {
	if n == nil || n.Kind != sequenceNode {
		return nil
	}
	for _, item := range n.Content {
		list = append(list, resolveAlias(item))
	}
	return list
}

// nameOf returns the name of a service as it is written.
func nameOf(service *yaml.Node) string {
	if name := child(service, "name"); name != nil && name.Kind == scalarNode {
		return name.Value
	}
	return ""
}

// named reports whether one of the services has a name.
func named(services []*yaml.Node, name string) bool {
	for _, s := range services {
		if nameOf(s) == name {
			return true
		}
	}
	return false
}
