package asyncrelay

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

const (
	mappingNode  = yaml.MappingNode
	sequenceNode = yaml.SequenceNode
	scalarNode   = yaml.ScalarNode
	aliasNode    = yaml.AliasNode
)

// parseYAML returns the root node of the only document in body, after all checks
// that do not depend on the keys. It returns nil if the document cannot be read
// any further.
func parseYAML(rep *report, body []byte) *yaml.Node {
	body = bytes.TrimPrefix(body, []byte("\uFEFF"))
	if !checkText(rep, body) {
		return nil
	}
	body = commentOutVersion(body)

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
		syntaxError(rep, err)
		return nil
	}

	root := document.Content[0]
	root.HeadComment = strings.Trim(document.HeadComment+"\n"+root.HeadComment, "\n")
	root.FootComment = strings.Trim(root.FootComment+"\n"+document.FootComment, "\n")
	if !checkTree(rep, root) {
		return nil
	}
	return root
}

// checkText reports the first byte that is not text. The parser rejects it too,
// but without its line.
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

// versionDirective matches the %YAML directive that may precede the document.
var versionDirective = regexp.MustCompile(`\A(?:[ \t]*(?:#[^\n]*)?\r?\n)*(%)YAML[ \t]+1\.\d+`)

// versionComment matches the directive after commentOutVersion, without its mark.
var versionComment = regexp.MustCompile(`^YAML[ \t]+1\.\d+`)

// commentOutVersion turns the version directive into a comment. The parser
// accepts only version 1.1, and the files have the same meaning in later 1.x
// versions.
func commentOutVersion(body []byte) []byte {
	if at := versionDirective.FindSubmatchIndex(body); at != nil {
		body = bytes.Clone(body)
		body[at[2]] = '#'
	}
	return body
}

// syntaxError reports an error of the YAML parser. A token that does not end is
// reported where it begins, all else where the parser noticed it.
func syntaxError(rep *report, err error) {
	line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	var at *yaml.LoadError
	if errors.As(err, &at) {
		line, text = at.Mark.Line, at.Message
		if at.Stage == yaml.ScannerStage && at.ContextMark.Line > 0 {
			line = at.ContextMark.Line
		}
	}
	rep.fail(max(1, line), place{}, "not valid YAML: %s", text)
}
