package caddyfile

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// maxValues bounds what a file holds once its aliases are followed. It is far
// beyond any real file, and stops those that grow without end.
const maxValues = 1_000_000

// treeCheck goes once over everything that is written in the file, known keys
// or not, and reports what YAML itself or the original's reader forbids.
type treeCheck struct {
	rep   *report
	sizes map[*yaml.Node]int // values below a node, aliases followed
	open  map[*yaml.Node]bool
	fatal bool // aliases can not be followed
}

// checkTree reports whether the tree can be read on.
func checkTree(rep *report, root *yaml.Node) bool {
	t := &treeCheck{rep: rep, sizes: make(map[*yaml.Node]int), open: make(map[*yaml.Node]bool)}
	if t.visit(root, place{}) > maxValues {
		rep.fail(root.Line, place{}, "more than %d values once aliases are followed", maxValues)
		return false
	}
	return !t.fatal
}

// visit returns the size of n, at most a little more than maxValues.
func (t *treeCheck) visit(n *yaml.Node, at place) int {
	if n.Kind == yamlAlias {
		if t.open[n.Alias] {
			t.rep.fail(n.Line, at, "alias *%s stands for something that contains it", n.Value)
			t.fatal = true
		}
		return 1 + t.sizes[n.Alias]
	}

	t.checkTag(n, at)
	t.open[n] = true
	size := 1
	switch n.Kind {
	case yamlSequence:
		for i, item := range n.Content {
			itemAt := at
			if at == (place{field: "services"}) {
				itemAt = place{service: serviceLabel(item, i)}
			}
			size = min(size+t.visit(item, itemAt), maxValues+1)
		}
	case yamlMapping:
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
		key, val := follow(n.Content[i]), n.Content[i+1]
		size = min(size+t.visit(n.Content[i], at), maxValues+1)
		if key.Kind != yamlScalar {
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
			t.rep.fail(val.Line, here, "must be a mapping or a list of mappings to take keys from, got %s", describe(follow(val)))
		}
	}
	return size
}

// checkTag refuses tags that would make a value something the format does not
// have, or ask a reader to run code.
func (t *treeCheck) checkTag(n *yaml.Node, at place) {
	if n.Style&yaml.TaggedStyle == 0 {
		return
	}
	known := false
	switch n.Kind {
	case yamlScalar:
		switch n.Tag {
		case "!!str", "!!int", "!!float", "!!bool", "!!null":
			known = true
		}
	case yamlMapping:
		known = n.Tag == "!!map"
	case yamlSequence:
		known = n.Tag == "!!seq"
	}
	if !known {
		t.rep.fail(n.Line, at, "tag %s can not be used here", n.Tag)
	}
}

// serviceLabel is what a report calls the service at index of the list: by its
// name, or by its number, counted from one, where it has none.
func serviceLabel(item *yaml.Node, index int) string {
	item = follow(item)
	if item.Kind == yamlMapping {
		for i := 0; i+1 < len(item.Content); i += 2 {
			name := follow(item.Content[i+1])
			if item.Content[i].Value == "name" && name.Kind == yamlScalar && resolveScalar(name).kind != scalarNull {
				return "service " + quoted(name.Value)
			}
		}
	}
	return fmt.Sprintf("service #%d", index+1)
}

func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yamlAlias {
		return n.Alias
	}
	return n
}

func isMerge(key *yaml.Node) bool {
	return key.Kind == yamlScalar && key.Tag == "!!merge" && key.Style&yaml.TaggedStyle == 0
}

func mergeable(n *yaml.Node) bool {
	n = follow(n)
	if n.Kind != yamlSequence {
		return n.Kind == yamlMapping
	}
	for _, item := range n.Content {
		if follow(item).Kind != yamlMapping {
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

// pairs lists what a mapping holds. Its own keys come before those it takes
// over by merge keys, and win over them, as the first of several sources does.
func pairs(n *yaml.Node) []pair {
	var own, merged []pair
	has := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := follow(n.Content[i])
		if key.Kind != yamlScalar || isMerge(n.Content[i]) || has[key.Value] {
			continue
		}
		has[key.Value] = true
		own = append(own, pair{key.Value, n.Content[i].Line, follow(n.Content[i+1])})
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			continue
		}
		sources := []*yaml.Node{n.Content[i+1]}
		if list := follow(n.Content[i+1]); list.Kind == yamlSequence {
			sources = list.Content
		}
		for _, source := range sources {
			if source = follow(source); source.Kind != yamlMapping {
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
