package caddyfile

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	yamlMapping  = yaml.MappingNode
	yamlSequence = yaml.SequenceNode
	yamlScalar   = yaml.ScalarNode
	yamlAlias    = yaml.AliasNode
)

// parseYAML returns the root of the one document in body, after all checks
// that need no knowledge of the format. It returns nil where the problems
// leave nothing to go on with.
func parseYAML(rep *report, body []byte) *yaml.Node {
	body = bytes.TrimPrefix(body, []byte("\uFEFF"))
	if !checkText(rep, body) {
		return nil
	}
	body = takeVersion(body)

	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(body))
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) || err == nil && document.Kind != yaml.DocumentNode {
		rep.fail(1, place{}, `the file is empty; expected a mapping with the key "services"`)
		return nil
	}
	if err == nil {
		err = decoder.Decode(&second)
	}
	switch {
	case err == nil:
		rep.fail(second.Line, place{}, "a second document begins here; expected one document")
		return nil
	case !errors.Is(err, io.EOF):
		syntaxError(rep, body, err)
		return nil
	}

	root := document.Content[0]
	if !checkTree(rep, root) {
		return nil
	}
	return root
}

// checkText refuses bytes that are not text before the parser does, whose
// errors would not say where they are.
func checkText(rep *report, body []byte) bool {
	line := 1
	for i := 0; i < len(body); {
		r, size := utf8.DecodeRune(body[i:])
		switch {
		case r == utf8.RuneError && size <= 1:
			rep.fail(line, place{}, "byte 0x%02x is not UTF-8; expected a UTF-8 text file", body[i])
			return false
		case r == '\n':
			line++
		case r < ' ' && r != '\t' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85:
			rep.fail(line, place{}, "control character %U; expected a text file", r)
			return false
		}
		i += size
	}
	return true
}

// version finds the directive that may stand above the document.
var version = regexp.MustCompile(`\A(?:[ \t]*(?:#[^\n]*)?\r?\n)*(%)YAML[ \t]+1\.\d+`)

// takeVersion turns the version directive into a comment: the parser knows
// only 1.1, and nothing here differs in later ones.
func takeVersion(body []byte) []byte {
	if at := version.FindSubmatchIndex(body); at != nil {
		body = bytes.Clone(body)
		body[at[2]] = '#'
	}
	return body
}

var (
	errorLine = regexp.MustCompile(`^line (\d+): `)

	// fromGrammar tells the errors that come with no line, or with that of the
	// block around the mistake, from those that come with its own.
	fromGrammar = regexp.MustCompile(`^(unknown anchor|found (undefined|duplicate)|` +
		`did not find expected (node content|key|',' or|'-' indicator|<))`)
)

func syntaxError(rep *report, body []byte, err error) {
	line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if at := errorLine.FindStringSubmatch(text); at != nil {
		line, _ = strconv.Atoi(at[1])
		text = strings.TrimPrefix(text, at[0])
	}
	if fromGrammar.MatchString(text) {
		line = lastLineRead(body)
	}
	rep.fail(line, place{}, "not valid YAML: %s", text)
}

// lastLineRead is the line of the last text that the parser looked at before
// it gave up.
func lastLineRead(body []byte) int {
	source := &byteByByte{body: body}
	decoder := yaml.NewDecoder(source)
	for range 2 {
		if decoder.Decode(new(yaml.Node)) != nil {
			break
		}
	}
	read := bytes.TrimRight(body[:source.read], " \t\r\n")
	return 1 + bytes.Count(read, []byte("\n"))
}

// byteByByte hands out no more than the parser needs to see.
type byteByByte struct {
	body []byte
	read int
}

func (b *byteByByte) Read(p []byte) (int, error) {
	if b.read == len(b.body) {
		return 0, io.EOF
	}
	p[0] = b.body[b.read]
	b.read++
	return 1, nil
}
