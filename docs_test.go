package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/async-relay/caddy-relay"
	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// adapterOf returns the config adapter for a file of examples/, or for a fenced
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

// checkConfig adapts and provisions a config, which is what `caddy validate`
// does. It opens the files that the config logs to.
func checkConfig(t *testing.T, adapter string, text []byte) {
	t.Helper()
	t.Chdir(t.TempDir())
	if adapter == "caddyfile" {
		// This is what `caddy fmt` prints.
		if formatted := cfile.Format(text); !bytes.Equal(bytes.TrimSpace(formatted), bytes.TrimSpace(text)) {
			t.Errorf("caddy fmt changes it to:\n%s", formatted)
		}
	}
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
	decoder := json.NewDecoder(bytes.NewReader(caddy.RemoveMetaFields(text))) // as Caddy does
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(config); err != nil {
		t.Fatal(err)
	}
}

// execHandler stands for a plugin of that name that runs commands on Caddy
// events, which some examples use.
type execHandler struct {
	Args []string `json:"args,omitempty"`
}

func init() { caddy.RegisterModule(new(execHandler)) }

func (*execHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.exec", New: func() caddy.Module { return new(execHandler) }}
}

func (h *execHandler) UnmarshalCaddyfile(d *cfile.Dispenser) error {
	d.Next() // the name of the handler
	h.Args = d.RemainingArgs()
	return nil
}

func (*execHandler) Handle(context.Context, caddy.Event) error { return nil }

func exampleFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("examples/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExamples(t *testing.T) {
	for _, file := range exampleFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			adapter, ok := adapterOf(strings.TrimPrefix(filepath.Ext(file), "."))
			if !ok {
				t.Fatal("not a config that this test knows")
			}
			checkConfig(t, adapter, []byte(readFile(t, file)))
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
	var open *fence
	for i, line := range strings.SplitAfter(readFile(t, file), "\n") {
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
	if err != nil || len(docs) == 0 {
		t.Fatal(docs, err)
	}
	return append([]string{"README.md", "CHANGELOG.md"}, docs...)
}

func TestConfigsInDocuments(t *testing.T) {
	for _, name := range []string{"REDIS_PRIMARY", "REDIS_STANDBY", "REDIS_PASSWORD"} {
		t.Setenv(name, strings.ToLower(name))
	}
	for _, file := range documents(t) {
		for _, f := range fences(t, file) {
			adapter, ok := adapterOf(f.kind)
			if !ok {
				continue
			}
			t.Run(file+" "+f.kind, func(t *testing.T) {
				t.Logf("%s:%d", file, f.line)
				checkConfig(t, adapter, []byte(f.text))
			})
		}
	}
}

// TestDocumentsShowTheExamples checks that each config in README is a file of
// examples/, so that users run what was explained to them, and that README and
// docs/ together show one of each kind.
func TestDocumentsShowTheExamples(t *testing.T) {
	examples := make(map[string]string) // by content
	for _, file := range exampleFiles(t) {
		examples[readFile(t, file)] = file
	}
	shown := make(map[string]bool) // kinds
	for _, file := range documents(t) {
		for _, f := range fences(t, file) {
			if _, ok := adapterOf(f.kind); !ok {
				continue
			}
			if examples[f.text] != "" {
				shown[f.kind] = true
			} else if file == "README.md" {
				t.Errorf("%s:%d: this config is none of the files in examples/", file, f.line)
			}
		}
	}
	if len(shown) != 3 {
		t.Errorf("the documents show examples of the kinds %v, want a Caddyfile, JSON and YAML", shown)
	}
}

// TestOptionTable checks that every option is in the tables of docs/options.md,
// and that the tables have no other.
func TestOptionTable(t *testing.T) {
	const file = "docs/options.md"
	var documented []string
	for line := range strings.Lines(readFile(t, file)) {
		if name, isRow := strings.CutPrefix(line, "| `"); isRow {
			name, _, _ = strings.Cut(name, "`")
			documented = append(documented, name)
		}
	}
	slices.Sort(documented)
	want := append(optionNames(reflect.TypeFor[caddyfile.Config](), ""), optionNames(reflect.TypeFor[caddyfile.AppConfig](), "")...)
	slices.Sort(want)
	if !slices.Equal(documented, want) {
		t.Errorf("the tables have %v\nthe config has %v", documented, want)
	}
}

// optionNames returns the JSON names of a struct's fields, and those of the
// structs in it with the outer name and a dot in front.
func optionNames(config reflect.Type, prefix string) (names []string) {
	for i := range config.NumField() {
		field := config.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, prefix+name)
		if field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() == reflect.Struct {
			names = append(names, optionNames(field.Type.Elem(), prefix+name+".")...)
		}
	}
	return names
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^(#+) (.+)$`)
	fenced  = regexp.MustCompile("(?ms)^```.*?^```$")
)

// anchors returns the fragments that GitHub gives the headings of a document.
func anchors(text string) (list []string) {
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		id := strings.ReplaceAll(strings.ToLower(m[2]), " ", "-")
		list = append(list, regexp.MustCompile(`[^\w-]`).ReplaceAllString(id, ""))
	}
	return list
}

// TestLinks checks that links between documents lead to a file and a heading.
func TestLinks(t *testing.T) {
	for _, file := range documents(t) {
		text := fenced.ReplaceAllString(readFile(t, file), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, fragment, _ := strings.Cut(m[1], "#")
			to := file
			if path != "" {
				to = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: link to %s: %v", file, m[1], err)
			} else if fragment != "" && !slices.Contains(anchors(readFile(t, to)), fragment) {
				t.Errorf("%s: %s has no heading #%s", file, to, fragment)
			}
		}
	}
}

// TestREADMEIsShort bounds README, and checks that its table of contents lists
// its sections in their order.
func TestREADMEIsShort(t *testing.T) {
	text := readFile(t, "README.md")
	if lines := strings.Count(text, "\n"); lines > 200 {
		t.Errorf("README has %d lines, want at most 200: details belong to docs/", lines)
	}
	var contents []string
	for _, m := range regexp.MustCompile(`\]\(#([\w-]+)\)`).FindAllStringSubmatch(text, -1) {
		contents = append(contents, m[1])
	}
	sections := anchors(text)[1:] // without the title
	if len(contents) < len(sections) || !slices.Equal(contents[:len(sections)], sections) {
		t.Errorf("the table of contents has %v\nthe sections are %v", contents, sections)
	}
}

// TestIndexListsDocuments checks that docs/README.md links to all of docs/.
func TestIndexListsDocuments(t *testing.T) {
	index := readFile(t, "docs/README.md")
	files, err := filepath.Glob("docs/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if name := filepath.Base(file); name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("docs/README.md does not link to %s", name)
		}
	}
}

// TestSwitchesOfFastPaths compares the words of RELAY_DISABLE in the code with the
// list of known words and with the table of docs/networks.md.
func TestSwitchesOfFastPaths(t *testing.T) {
	known := make(map[string]bool)
	for _, word := range netio.FastPaths {
		known[word] = true
	}
	used := make(map[string]bool)
	call := regexp.MustCompile(`\bDisabled\("([a-z]+)"\)`)
	err := filepath.WalkDir(".", func(file string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return err
		}
		text, err := os.ReadFile(file)
		for _, found := range call.FindAllStringSubmatch(string(text), -1) {
			used[found[1]] = true
		}
		return err
	})
	relaytest.Check(t, err)
	wantWords(t, "the code", used, known)

	text, err := os.ReadFile("docs/networks.md")
	relaytest.Check(t, err)
	_, section, _ := strings.Cut(string(text), "\n## Switching fast paths off\n")
	documented := make(map[string]bool)
	for _, found := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\|").FindAllStringSubmatch(section, -1) {
		documented[found[1]] = true
	}
	wantWords(t, "docs/networks.md", documented, known)
}

// wantWords fails the test unless a source has exactly the known words.
func wantWords(t *testing.T, source string, got, known map[string]bool) {
	t.Helper()
	if !maps.Equal(got, known) {
		t.Errorf("%s has the words %v of RELAY_DISABLE, netio.FastPaths has %v", source, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(known)))
	}
}
