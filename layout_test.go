package relay_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "github.com/async-relay/caddy-relay"

// arrows says which of our packages each may import (a trailing /... is all
// below it). They point downwards only: a plain core under a Caddy shell.
var arrows = map[string][]string{
	".":                      {"module"},
	"bench":                  {},
	"cmd/caddy":              {"."},
	"module":                 {"caddyfile", "caddyfile/asyncrelay", "handler", "upstream", "resolver", "internal/...", "module/api", "module/command", "module/memory", "module/page", "module/yamlfile"},
	"module/api":             {},
	"module/command":         {"module/api", "module/doctor", "module/yamlfile", "caddyfile", "caddyfile/asyncrelay", "internal/version", "internal/watch"},
	"module/memory":          {"handler", "upstream", "resolver"},
	"module/page":            {"module/api", "module/yamlfile", "caddyfile/asyncrelay"},
	"module/yamlfile":        {"caddyfile/asyncrelay"},
	"module/doctor":          {"module/api", "caddyfile", "internal/listen", "internal/netio"},
	"handler":                {"upstream", "internal/dgram", "internal/dial", "internal/loglimit", "internal/stream", "internal/netio"},
	"caddyfile":              {},
	"caddyfile/asyncrelay":   {"caddyfile"},
	"upstream":               {},
	"resolver":               {},
	"internal/chaos":         {},
	"internal/dgram":         {"internal/netio"},
	"internal/dnsclient":     {},
	"internal/dial":          {"internal/netio"},
	"internal/fleet":         {},
	"internal/hook":          {"internal/loglimit"},
	"internal/listen":        {"internal/netio", "internal/takeover"},
	"internal/loglimit":      {},
	"internal/logqueue":      {},
	"internal/netio":         {},
	"internal/relaytest":     {},
	"internal/relaytest/lab": {"internal/relaytest"},
	"internal/stream":        {"internal/netio"},
	"internal/takeover":      {"internal/netio"},
	"internal/version":       {},
	"internal/watch":         {},
}

// core are the packages that build without Caddy in their dependencies.
var core = []string{"handler", "upstream", "resolver", "internal/", "module/api", "module/memory"}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// ours is the path of a package below the module's root; ok is false for others'.
func ours(path string) (rel string, ok bool) {
	if path == root {
		return ".", true
	}
	return strings.CutPrefix(path, root+"/")
}

func TestImportsPointDownwards(t *testing.T) {
	for _, p := range listPackages(t) {
		from, _ := ours(p.ImportPath)
		allowed, known := arrows[from]
		if !known {
			t.Errorf("package %s has no place in the layout: give it one here and in the docs", from)
			continue
		}
		for _, path := range p.Imports {
			if to, ok := ours(path); ok && !mayImport(allowed, to) {
				t.Errorf("%s imports %s, against the arrows: it may import %v", from, to, allowed)
			}
		}
	}
}

func mayImport(allowed []string, to string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		below, all := strings.CutSuffix(a, "...")
		return a == to || all && strings.HasPrefix(to, below)
	})
}

func TestCoreKnowsNoCaddy(t *testing.T) {
	for _, p := range listPackages(t) {
		from, _ := ours(p.ImportPath)
		if !slices.ContainsFunc(core, func(c string) bool { return strings.HasPrefix(from, c) }) {
			continue
		}
		for _, dep := range p.Deps {
			for _, shell := range []string{"github.com/caddyserver/", "github.com/mholt/caddy-l4", "github.com/prometheus/client_golang"} {
				if strings.HasPrefix(dep, shell) {
					t.Errorf("%s depends on %s", from, dep)
				}
			}
		}
	}
}

func TestArrowsForbid(t *testing.T) {
	if mayImport(arrows["handler"], "resolver") || mayImport(arrows["upstream"], "handler") || mayImport(arrows["caddyfile"], "internal/netio") {
		t.Error("the table allows what the layout forbids")
	}
	if !mayImport(arrows["module"], "internal/netio") {
		t.Error("internal/... does not cover internal/netio")
	}
}

// Only what the layout names stands at the top; others may join, few and for a
// reason that belongs here.
func TestTopLevel(t *testing.T) {
	want := []string{
		"module", "handler", "upstream", "resolver", "caddyfile", "internal", "cmd", "tools", "examples", "docs", "bench",
		"xcaddy.txt", "go.mod", "go.sum", "README.md", "CHANGELOG.md", "LICENSE", "imports.go",
		"CONTRIBUTING.md", "SECURITY.md", "init", // what contributors and packagers look for
		"layout_test.go", "docs_test.go", "docs_logs_test.go", "moduledoc_test.go", "deploy_test.go", // what they test is the top level
	}
	out, err := exec.Command("git", "ls-tree", "--name-only", "HEAD").Output()
	if err != nil {
		t.Skip("not a git checkout: nothing says what belongs to the project")
	}
	for _, name := range strings.Fields(string(out)) {
		if !strings.HasPrefix(name, ".") && !slices.Contains(want, name) {
			t.Errorf("%s stands at the top level without a reason in this test", name)
		}
	}
}

// systemCallers are the packages that may use unsafe, golang.org/x/sys and the
// functions of package syscall, with the reason.
var systemCallers = map[string]string{
	"internal/netio":         "it exists for that",
	"internal/hook":          "signals to process groups and waits for orphans, which concern no socket: package os does neither",
	"internal/relaytest":     "descriptor limits, backlogs and socket buffers of tests, and system calls that seccomp rejects",
	"internal/relaytest/lab": "makes TUN devices for tests",
	"bench":                  "measures processes from outside and is not part of the plugin",
}

// systemCallTypes are the names of package syscall that look like functions in a
// call, and are types.
var systemCallTypes = []string{"Errno", "Signal"}

func TestSystemCallsInNetioOnly(t *testing.T) {
	used := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "tools"):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		// Every file counts, whatever system it is for, so go/build's choice is not asked.
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		for _, call := range systemCalls(file) {
			used[dir] = true
			if _, allowed := systemCallers[dir]; !allowed {
				t.Errorf("%s uses %s: system calls and unsafe code belong in internal/netio", path, call)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir := range systemCallers {
		if !used[dir] {
			t.Errorf("%s needs no exception any more", dir)
		}
	}
}

// systemCalls returns what a file uses of unsafe, golang.org/x/sys and package
// syscall's functions.
func systemCalls(file *ast.File) (found []string) {
	for _, imported := range file.Imports {
		path, _ := strconv.Unquote(imported.Path.Value)
		if path == "unsafe" || strings.HasPrefix(path, "golang.org/x/sys") {
			found = append(found, path)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if of, ok := call.Fun.(*ast.SelectorExpr); ok {
			if pkg, ok := of.X.(*ast.Ident); ok && pkg.Name == "syscall" && !slices.Contains(systemCallTypes, of.Sel.Name) {
				found = append(found, "syscall."+of.Sel.Name)
			}
		}
		return true
	})
	return found
}
