package asyncrelay

import (
	"fmt"

	"go.yaml.in/yaml/v4"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// maxValues limits the number of values of a file after its aliases are expanded.
// It stops files whose nested aliases grow exponentially.
const maxValues = 1_000_000

// treeCheck visits every node of the file once, under known and unknown keys, and
// reports what YAML itself or async-relay's reader does not allow.
type treeCheck struct {
	rep   *report
	sizes map[*yaml.Node]int  // number of values of a node with its aliases expanded
	open  map[*yaml.Node]bool // the nodes above the visited one
	fatal bool                // an alias contains itself
}

// checkTree reports the problems of the tree. It returns false if the tree cannot
// be read any further.
func checkTree(rep *report, root *yaml.Node) bool {
	t := &treeCheck{rep: rep, sizes: make(map[*yaml.Node]int), open: make(map[*yaml.Node]bool)}
	if t.visit(root, place{}) > maxValues {
		rep.fail(root.Line, place{}, "more than %d values after expanding aliases", maxValues)
		return false
	}
	return !t.fatal
}

// visit checks n and returns its size, which is at most slightly more than
// maxValues.
func (t *treeCheck) visit(n *yaml.Node, at place) int {
	if n.Kind == aliasNode {
		if t.open[n.Alias] {
			t.rep.fail(n.Line, at, "alias *%s refers to a value that contains it", n.Value)
			t.fatal = true
		}
		return 1 + t.sizes[n.Alias]
	}

	t.checkTag(n, at)
	t.open[n] = true
	size := 1
	switch n.Kind {
	case sequenceNode:
		for i, item := range n.Content {
			itemAt := at
			if at == (place{field: "services"}) {
				itemAt = place{service: serviceLabel(item, i)}
			}
			size = min(size+t.visit(item, itemAt), maxValues+1)
		}
	case mappingNode:
		size += t.visitMapping(n, at)
	}
	delete(t.open, n)
	size = min(size, maxValues+1)
	t.sizes[n] = size
	return size
}

func (t *treeCheck) visitMapping(n *yaml.Node, at place) (size int) {
	first := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := resolveAlias(n.Content[i]), n.Content[i+1]
		size = min(size+t.visit(n.Content[i], at), maxValues+1)
		if key.Kind != scalarNode {
			t.rep.fail(n.Content[i].Line, at, "a key must be text, got %s", describe(key))
			continue
		}
		here := at.key(key.Value)
		size = min(size+t.visit(val, here), maxValues+1)
		if line, ok := first[key.Value]; ok {
			t.rep.fail(n.Content[i].Line, here, "given twice, first on line %d", line)
			continue
		}
		first[key.Value] = n.Content[i].Line
		if isMerge(n.Content[i]) && !mergeable(val) {
			t.rep.fail(val.Line, here, "must be a mapping or a list of mappings to merge, got %s", describe(resolveAlias(val)))
		}
	}
	return size
}

// checkTag rejects tags other than those of the basic types. Other tags give
// types that the format does not have, or make a reader run code.
func (t *treeCheck) checkTag(n *yaml.Node, at place) {
	if n.Style&yaml.TaggedStyle == 0 {
		return
	}
	known := false
	switch n.Kind {
	case scalarNode:
		switch n.Tag {
		case "!!str", "!!int", "!!float", "!!bool", "!!null":
			known = true
		}
	case mappingNode:
		known = n.Tag == "!!map"
	case sequenceNode:
		known = n.Tag == "!!seq"
	}
	if !known {
		t.rep.fail(n.Line, at, "tag %s not allowed here", n.Tag)
	}
}

// serviceLabel returns the name that reports use for the service at index of the
// list: its own name, or its number, counted from one.
func serviceLabel(item *yaml.Node, index int) string {
	item = resolveAlias(item)
	if item.Kind == mappingNode {
		for i := 0; i+1 < len(item.Content); i += 2 {
			name := resolveAlias(item.Content[i+1])
			if item.Content[i].Value == "name" && name.Kind == scalarNode && resolveScalar(name).kind != scalarNull {
				return "service " + caddyfile.Quoted(name.Value)
			}
		}
	}
	return fmt.Sprintf("service #%d", index+1)
}

// resolveAlias returns the node that an alias refers to, and any other node as it
// is.
func resolveAlias(n *yaml.Node) *yaml.Node {
	if n.Kind == aliasNode {
		return n.Alias
	}
	return n
}

// isMerge reports whether key is the merge key "<<".
func isMerge(key *yaml.Node) bool {
	return key.Kind == scalarNode && key.Tag == "!!merge" && key.Style&yaml.TaggedStyle == 0
}

// mergeable reports whether n is a valid value of a merge key.
func mergeable(n *yaml.Node) bool {
	n = resolveAlias(n)
	if n.Kind != sequenceNode {
		return n.Kind == mappingNode
	}
	for _, item := range n.Content {
		if resolveAlias(item).Kind != mappingNode {
			return false
		}
	}
	return true
}

// pair is a key and its value in a mapping, with the line of the key.
type pair struct {
	key  string
	line int
	val  *yaml.Node
}

// pairs returns the keys and values of a mapping, first its own and then the
// merged ones. Its own keys override merged ones, and an earlier merged mapping
// overrides a later one.
func pairs(n *yaml.Node) []pair {
	var own, merged []pair
	has := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := resolveAlias(n.Content[i])
		if key.Kind != scalarNode || isMerge(n.Content[i]) || has[key.Value] {
			continue
		}
		has[key.Value] = true
		own = append(own, pair{key.Value, n.Content[i].Line, resolveAlias(n.Content[i+1])})
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			continue
		}
		sources := []*yaml.Node{n.Content[i+1]}
		if list := resolveAlias(n.Content[i+1]); list.Kind == sequenceNode {
			sources = list.Content
		}
		for _, source := range sources {
			if source = resolveAlias(source); source.Kind != mappingNode {
				continue
			}
			for _, p := range pairs(source) {
				if !has[p.key] {
					has[p.key] = true
					merged = append(merged, p)
				}
			}
		}
	}
	return append(own, merged...)
}
