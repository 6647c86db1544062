package relay_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Caddy's site renders the documentation of modules from their source, with
// github.com/caddyserver/moduledoc. It does not run the code, so it understands only
// some ways to write a module, and it drops all modules of a package in which it
// finds another one. The tests in this file hold the code to those ways.

// modulesOf is what moduledoc finds in a package.
type modulesOf struct {
	registered map[string]bool   // types that are passed to caddy.RegisterModule
	ids        map[string]string // by type: the ID that its method CaddyModule returns
}

func TestModulesCanBeDocumented(t *testing.T) {
	found := make(map[string]bool)
	for dir, files := range parsePackages(t) {
		m := modulesOf{make(map[string]bool), make(map[string]string)}
		for _, file := range files {
			m.readFile(t, dir, file)
		}
		for name := range m.registered {
			if m.ids[name] == "" {
				t.Errorf("%s: %s is registered, but has no method CaddyModule with a literal ID in this package", dir, name)
			}
		}
		for name, id := range m.ids {
			if !m.registered[name] {
				t.Errorf("%s: %s is not registered in its own package", dir, name)
			}
			found[id] = true
		}
	}
	for _, id := range []string{"layer4.handlers.relay", "relay", "admin.api.relay"} {
		if !found[id] {
			t.Errorf("no module %s is found", id)
		}
	}
}

func (m modulesOf) readFile(t *testing.T, dir string, file *ast.File) {
	t.Helper()
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.CallExpr:
			if selector, ok := node.Fun.(*ast.SelectorExpr); ok && selector.Sel.Name == "RegisterModule" {
				name := registeredType(node.Args[0])
				if name == "" {
					t.Errorf("%s: caddy.RegisterModule needs T{} or new(T), with a type of its package", dir)
				}
				m.registered[name] = true
			}
		case *ast.FuncDecl:
			if node.Name.Name == "CaddyModule" && node.Recv != nil {
				m.ids[receiverType(node)] = moduleID(node)
			}
		}
		return true
	})
}

// registeredType returns the type that an argument of RegisterModule names, or "".
func registeredType(arg ast.Expr) string {
	var named ast.Expr
	switch arg := arg.(type) {
	case *ast.CompositeLit:
		named = arg.Type
	case *ast.CallExpr:
		if f, ok := arg.Fun.(*ast.Ident); ok && f.Name == "new" {
			named = arg.Args[0]
		}
	}
	if ident, ok := named.(*ast.Ident); ok {
		return ident.Name
	}
	return ""
}

func receiverType(f *ast.FuncDecl) string {
	of := f.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	ident, _ := of.(*ast.Ident)
	if ident == nil {
		return ""
	}
	return ident.Name
}

// moduleID returns the ID in the ModuleInfo literal that a method CaddyModule
// returns, or "" if it is no literal.
func moduleID(f *ast.FuncDecl) (id string) {
	ast.Inspect(f, func(node ast.Node) bool {
		pair, ok := node.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		key, isIdent := pair.Key.(*ast.Ident)
		value, isLiteral := pair.Value.(*ast.BasicLit)
		if isIdent && isLiteral && key.Name == "ID" {
			id = strings.Trim(value.Value, `"`)
		}
		return true
	})
	return id
}

// Each field that a config may have has a comment, which becomes its documentation.
func TestConfigFieldsAreDocumented(t *testing.T) {
	fields := 0
	for dir, files := range parsePackages(t) {
		if !strings.HasPrefix(dir, "caddyfile") && !strings.HasPrefix(dir, "module") {
			continue
		}
		for _, file := range files {
			ast.Inspect(file, func(node ast.Node) bool {
				spec, ok := node.(*ast.TypeSpec)
				if !ok || !spec.Name.IsExported() || dir == "module/api" || dir == "module/doctor" || dir == "module/memory" {
					return true
				}
				of, ok := spec.Type.(*ast.StructType)
				if !ok {
					return true
				}
				for _, field := range of.Fields.List {
					if field.Tag == nil || len(field.Names) == 0 {
						continue
					}
					if tag := reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"); tag == "" || tag == "-" {
						continue
					}
					fields++
					if strings.TrimSpace(field.Doc.Text()) == "" {
						t.Errorf("%s: field %s of %s has no comment", dir, field.Names[0].Name, spec.Name.Name)
					}
				}
				return true
			})
		}
	}
	if fields < 40 {
		t.Errorf("only %d fields were found", fields)
	}
}

// parsePackages parses the source of all packages, without tests, by folder.
func parsePackages(t *testing.T) map[string][]*ast.File {
	t.Helper()
	packages := make(map[string][]*ast.File)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != "." || entry.Name() == "testdata" || entry.Name() == "tools"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		packages[dir] = append(packages[dir], file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}
