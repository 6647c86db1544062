package relay_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/async-relay/caddy-relay"
	"github.com/async-relay/caddy-relay/caddyfile"
)

// adapterOf is the config adapter for a file of examples/, or for a fenced
// block of that language in a document; ok is false for what is no config.
func adapterOf(kind string) (adapter string, ok bool) {
	switch kind {
	case "caddyfile":
		return "caddyfile", true
	case "json":
		return "", true
	case "yaml":
		return "async-relay", true
	default:
		return "", false
	}
}

// check adapts and provisions a config, which is what `caddy validate` does.
// It opens the files that the config logs to.
func check(t *testing.T, adapter string, text []byte) {
	t.Helper()
	t.Chdir(t.TempDir())
	if adapter != "" {
		adapted, warnings, err := caddyconfig.GetAdapter(adapter).Adapt(text, map[string]any{"filename": "example"})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range warnings {
			t.Errorf("warning: %s", w)
		}
		text = adapted
	}
	var config *caddy.Config
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(config); err != nil {
		t.Fatal(err)
	}
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			adapter, ok := adapterOf(strings.TrimPrefix(filepath.Ext(file), "."))
			if !ok {
				t.Fatal("not a config that this test knows")
			}
			check(t, adapter, text)
		})
	}
}

// fence is a fenced block of a document.
type fence struct {
	kind string
	line int
	text string
}

func fences(t *testing.T, file string) (found []fence) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var open *fence
	for i, line := range strings.SplitAfter(string(text), "\n") {
		mark, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			open = &fence{kind: mark, line: i + 1}
		case isFence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	if open != nil {
		t.Fatalf("%s:%d: a fence that does not end", file, open.line)
	}
	return found
}

func documents(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"README.md"}, docs...)
}

func TestConfigsInDocuments(t *testing.T) {
	for _, file := range documents(t) {
		for _, f := range fences(t, file) {
			adapter, ok := adapterOf(f.kind)
			if !ok {
				continue
			}
			t.Run(file+" "+f.kind, func(t *testing.T) {
				t.Logf("%s:%d", file, f.line)
				check(t, adapter, []byte(f.text))
			})
		}
	}
}

// What README shows is what examples/ holds, so that nobody runs another file
// than the one that was explained.
func TestREADMEShowsTheExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*")
	if err != nil {
		t.Fatal(err)
	}
	var examples []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		examples = append(examples, string(text))
	}
	shown := 0
	for _, f := range fences(t, "README.md") {
		if _, ok := adapterOf(f.kind); !ok {
			continue
		}
		shown++
		if !slices.Contains(examples, f.text) {
			t.Errorf("README.md:%d: this config is none of the files in examples/", f.line)
		}
	}
	if shown < 3 {
		t.Errorf("README shows %d configs: a Caddyfile, JSON and YAML are promised", shown)
	}
}

// Every option is in README's table, and the table has no other.
func TestREADMEOptionTable(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "## Options")
	if !ok {
		t.Fatal("no section Options")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	var documented []string
	for line := range strings.Lines(table) {
		if name, isRow := strings.CutPrefix(line, "| `"); isRow {
			name, _, _ = strings.Cut(name, "`")
			documented = append(documented, name)
		}
	}
	slices.Sort(documented)
	if want := optionNames(); !slices.Equal(documented, want) {
		t.Errorf("the table has %v\nthe config has %v", documented, want)
	}
}

// optionNames are the JSON names of the config's fields.
func optionNames() (names []string) {
	config := reflect.TypeFor[caddyfile.Config]()
	for i := range config.NumField() {
		name, _, _ := strings.Cut(config.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
