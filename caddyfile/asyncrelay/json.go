package asyncrelay

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxJSONDepth limits how deeply the values of a JSON document are nested.
const maxJSONDepth = 64

// parseJSON returns the root node of settings that are written in JSON, with the
// lines of the JSON text. Like parseYAML, it reports problems and may return nil.
func parseJSON(rep *report, body []byte) *yaml.Node {
	if !utf8.Valid(body) {
		rep.fail(1, place{}, "not valid UTF-8")
		return nil
	}
	r := &jsonReader{body: body, decoder: json.NewDecoder(bytes.NewReader(body))}
	r.decoder.UseNumber()
	root, err := r.value(0)
	if err == nil {
		if _, err = r.decoder.Token(); err == nil {
			err = errors.New("text after the end of the value")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		line := r.line()
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line = lineOf(body, syntax.Offset)
		}
		rep.fail(line, place{}, "not valid JSON: %v", err)
		return nil
	}
	if !checkTree(rep, root) {
		return nil
	}
	return root
}

// jsonReader makes nodes of JSON tokens.
type jsonReader struct {
	body    []byte
	decoder *json.Decoder
}

// line returns the line of the last token that was read.
func (r *jsonReader) line() int { return lineOf(r.body, r.decoder.InputOffset()) }

// lineOf returns the line of the byte before an offset.
func lineOf(body []byte, offset int64) int {
	return 1 + bytes.Count(body[:max(min(offset, int64(len(body)))-1, 0)], []byte("\n"))
}

// value reads a value and all that it contains.
func (r *jsonReader) value(depth int) (*yaml.Node, error) {
	if depth > maxJSONDepth {
		return nil, errors.New("values are nested too deeply")
	}
	token, err := r.decoder.Token()
	if err != nil {
		return nil, err
	}
	node := &yaml.Node{Kind: scalarNode, Line: r.line()}
	switch token := token.(type) {
	case json.Delim:
		node.Kind, node.Tag = sequenceNode, "!!seq"
		if token == '{' {
			node.Kind, node.Tag = mappingNode, "!!map"
		}
		for r.decoder.More() {
			if token == '{' {
				key, err := r.decoder.Token()
				if err != nil {
					return nil, err
				}
				node.Content = append(node.Content, textNode(key.(string), r.line()))
			}
			item, err := r.value(depth + 1)
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, item)
		}
		if _, err := r.decoder.Token(); err != nil { // the closing bracket
			return nil, err
		}
	case string:
		node = textNode(token, node.Line)
	case json.Number:
		node.Value = token.String()
		if f, err := token.Float64(); err == nil && strings.ContainsAny(node.Value, "eE") {
			node.Value = strconv.FormatFloat(f, 'f', -1, 64) // in YAML 1.1, 1e3 is text
		}
		node.Tag = "!!int"
		if strings.Contains(node.Value, ".") {
			node.Tag = "!!float"
		}
	case bool:
		node.Tag, node.Value = "!!bool", strconv.FormatBool(token)
	case nil:
		node.Tag, node.Value = "!!null", "null"
	}
	return node, nil
}

// textNode returns a node of a text. It is in quotes where a reader of YAML could
// take the text for something else.
func textNode(text string, line int) *yaml.Node {
	n := &yaml.Node{Kind: scalarNode, Tag: "!!str", Value: text, Line: line}
	if !plainText(text) || resolveScalar(n).kind != scalarText {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// plainText reports whether a text consists of letters, digits and a few signs, and
// begins with a letter.
func plainText(text string) bool {
	for i, c := range text {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789.-/", c)) {
			return false
		}
	}
	return text != ""
}

// appendJSON appends a node as JSON, with the keys in the order of the file. Types
// are those of YAML 1.1. hide returns whether the value at a place is hidden.
func appendJSON(out []byte, n *yaml.Node, at place, hide func(place) bool) []byte {
	n = resolveAlias(n)
	switch n.Kind {
	case mappingNode:
		out = append(out, '{')
		for i, p := range pairs(n) {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendJSONText(out, p.key)
			out = append(out, ':')
			out = appendJSON(out, p.val, at.key(p.key), hide)
		}
		return append(out, '}')
	case sequenceNode:
		out = append(out, '[')
		for i, item := range n.Content {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendJSON(out, item, at, hide)
		}
		return append(out, ']')
	}
	s := resolveScalar(n)
	switch {
	case s.kind == scalarNull:
		return append(out, "null"...)
	case hide(at):
		return appendJSONText(out, Hidden)
	case s.kind == scalarBool:
		return strconv.AppendBool(out, s.boolean)
	case s.kind == scalarInt || s.kind == scalarFloat:
		if text, err := json.Marshal(s.number); err == nil {
			return append(out, text...)
		} // infinite or not a number
	}
	return appendJSONText(out, s.text)
}

func appendJSONText(out []byte, s string) []byte {
	text, _ := json.Marshal(s) // cannot fail
	return append(out, text...)
}
