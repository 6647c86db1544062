package asyncrelay

import (
	"bytes"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// TestSchemaFile compares the schema with the published file.
func TestSchemaFile(t *testing.T) {
	const file = "../../docs/async-relay.schema.json"
	if *update {
		relaytest.WriteFile(t, file, string(Schema()))
	}
	if !bytes.Equal(relaytest.ReadFile(t, file), Schema()) {
		t.Errorf("%s is outdated: run this test with -update", file)
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	relaytest.Check(t, err)
	compiler := jsonschema.NewCompiler()
	relaytest.Check(t, compiler.AddResource("async-relay.schema.json", document))
	schema, err := compiler.Compile("async-relay.schema.json")
	relaytest.Check(t, err)
	return schema
}

// plainValue returns a node as a JSON value, as an editor sees it that reads YAML 1.1.
func plainValue(n *yaml.Node) any {
	n = resolveAlias(n)
	switch n.Kind {
	case mappingNode:
		object := make(map[string]any)
		for _, p := range pairs(n) {
			object[p.key] = plainValue(p.val)
		}
		return object
	case sequenceNode:
		list := []any{}
		for _, item := range n.Content {
			list = append(list, plainValue(item))
		}
		return list
	}
	switch s := resolveScalar(n); s.kind {
	case scalarNull:
		return nil
	case scalarBool:
		return s.boolean
	case scalarInt, scalarFloat:
		if math.IsInf(s.number, 0) || math.IsNaN(s.number) {
			return s.text // no JSON number
		}
		return s.number
	default:
		return s.text
	}
}

// beyondSchema matches the reports on files that the adapter rejects for reasons that
// a schema cannot express.
var beyondSchema = []string{
	"conflicts with", "must be unique", "listed twice", "given twice", "not valid YAML", "is not UTF-8", "control character", "a second document", "alias", "not allowed here",
	"is not a host name", "is not an IPv6 address", "port must be", "only IPv6 addresses go in brackets", "more than one colon", "an IPv6 address needs brackets",
	"requires", "must be at most the interval", "which YAML reads as the number", "a check is one of", "must be whole seconds", "backslash", "must be an IP address",
	"must be an address", "must be a loopback address", "blanks and control characters", "must not contain control", "because the service has protocol", "because auth is enabled", "must be a path", "must be a host name",
	"must be at most", "must be at least", "must be 1 to 65535, got \"", "must be an address, a prefix", "NUL character", "to merge", "a key must be text", "must be a domain name", "must be a number of bytes", "must be a number of seconds", "must not be blank",
}

// TestSchema validates all files of the tests. Valid files must be valid by the schema
// too. Rejected files must be invalid by it, or be rejected for a reason that a schema
// cannot express.
func TestSchema(t *testing.T) {
	schema := compileSchema(t)
	caught, accepted := 0, 0
	for _, file := range slices.Concat(relaytest.Glob(t, "testdata/yaml-corpus/*.yaml"), relaytest.Glob(t, "testdata/yaml/*.yaml"), relaytest.Glob(t, "testdata/convert/*.yaml"), relaytest.Glob(t, "../../examples/*.yaml")) {
		body := relaytest.ReadFile(t, file)
		_, _, adaptErr := newAdapter().Adapt(body, nil)
		rep := &report{}
		root := parseYAML(rep, body)
		if root == nil {
			continue // not even YAML
		}
		schemaErr := schema.Validate(plainValue(root))
		switch {
		case adaptErr == nil && schemaErr != nil:
			t.Errorf("%s is valid, but not by the schema: %v", filepath.Base(file), schemaErr)
		case adaptErr == nil:
			accepted++
		case schemaErr != nil:
			caught++
		default:
			for line := range strings.Lines(adaptErr.Error()) {
				if !strings.Contains(line, "unknown key") && !slices.ContainsFunc(beyondSchema, func(reason string) bool { return strings.Contains(line, reason) }) {
					t.Errorf("%s is valid by the schema, but: %s", filepath.Base(file), line)
				}
			}
		}
	}
	t.Logf("%d valid files, %d rejected by the schema", accepted, caught)
	if accepted < 60 || caught < 60 {
		t.Errorf("only %d valid files and %d rejected by the schema", accepted, caught)
	}
}

// TestSchemaDescribesEveryKey checks that the schema has every key that the reader
// knows, and no other.
func TestSchemaDescribesEveryKey(t *testing.T) {
	keysOfSchema := func(s jsonSchema) (keys []string) {
		for key, property := range s {
			keys = append(keys, key)
			if p := property.(jsonSchema); p["$ref"] == nil && p["description"] == nil {
				t.Errorf("%s has no description", key)
			}
		}
		slices.Sort(keys)
		return keys
	}
	for _, test := range []struct {
		schema jsonSchema
		keys   []string
	}{{serviceProperties(), serviceKeys}, {healthCheckProperties(), healthCheckKeys}} {
		want := slices.Sorted(slices.Values(test.keys))
		if got := keysOfSchema(test.schema); !slices.Equal(got, want) {
			t.Errorf("the schema has %v\nthe reader has %v", got, want)
		}
	}
}
