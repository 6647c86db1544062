package relay_test

import (
	"encoding/json"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestLogMessagesAreDocumented compares the messages and levels of all logger
// calls of the module with the tables of docs/logs.md.
func TestLogMessagesAreDocumented(t *testing.T) {
	logged := loadSource(t).logLines(t)
	documented := tableRows(t, "docs/logs.md", regexp.MustCompile("^\\| (DEBUG|INFO|WARN|ERROR) \\| `([^`]+)` \\|"))
	compare(t, "log line", logged, documented)
}

// TestReasonsAreDocumented compares the values of the field reason of log
// lines with those in docs/logs.md.
func TestReasonsAreDocumented(t *testing.T) {
	logged := loadSource(t).fieldValues(t, "reason")
	documented := tableRows(t, "docs/logs.md", regexp.MustCompile("^\\| `([a-z_]+)` \\|"))
	compare(t, "reason", logged, documented)
}

// tableRows returns the cells that match the groups of a pattern, joined by a
// blank, for each line of a file that matches it.
func tableRows(t *testing.T, file string, row *regexp.Regexp) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		if m := row.FindStringSubmatch(line); m != nil {
			key := strings.Join(m[1:], " ")
			if found[key] {
				t.Errorf("%s has two rows for %q", file, key)
			}
			found[key] = true
		}
	}
	return found
}

// compare prints what one side has and the other lacks, one a line.
func compare(t *testing.T, what string, code, documented map[string]bool) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(code)) {
		if !documented[key] {
			t.Errorf("missing in docs/logs.md: %s %q", what, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(documented)) {
		if !code[key] {
			t.Errorf("extra in docs/logs.md: %s %q", what, key)
		}
	}
	if len(code) < 5 {
		t.Errorf("found %d of the kind %s in the code, which cannot be all", len(code), what)
	}
}

// source is the type-checked code of the module, without its tests.
type source struct {
	fset     *token.FileSet
	packages map[string]*types.Package
	files    []*ast.File
	info     types.Info
}

// loadSource checks the module's packages from source, so that one object
// stands for each function and field, and takes all others from export data.
func loadSource(t *testing.T) *source {
	t.Helper()
	out, err := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export,Dir,GoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	s := &source{
		fset:     token.NewFileSet(),
		packages: make(map[string]*types.Package),
		info: types.Info{
			Types:      make(map[ast.Expr]types.TypeAndValue),
			Defs:       make(map[*ast.Ident]types.Object),
			Uses:       make(map[*ast.Ident]types.Object),
			Selections: make(map[*ast.SelectorExpr]*types.Selection),
		},
	}
	exports := make(map[string]string)
	others := importer.ForCompiler(s.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	config := types.Config{Importer: importerFunc(func(path string) (*types.Package, error) {
		if p := s.packages[path]; p != nil {
			return p, nil
		}
		return others.Import(path)
	})}
	// go list prints a package after those that it imports.
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Export, Dir string
			GoFiles                 []string
		}
		if err := d.Decode(&p); err == io.EOF {
			return s
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if _, ok := ours(p.ImportPath); !ok {
			continue
		}
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(s.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		if s.packages[p.ImportPath], err = config.Check(p.ImportPath, s.fset, files, &s.info); err != nil {
			t.Fatal(err)
		}
		s.files = append(s.files, files...)
	}
}

type importerFunc func(path string) (*types.Package, error)

func (f importerFunc) Import(path string) (*types.Package, error) { return f(path) }

// loggerMethods maps the methods that write a line to its level; those whose
// first argument is the level have none.
var loggerMethods = map[string]string{
	"Debug": "DEBUG", "Info": "INFO", "Warn": "WARN", "Error": "ERROR", "DPanic": "DPANIC", "Panic": "PANIC", "Fatal": "FATAL",
	"Check": "", "Log": "",
}

// logLines returns the level and message of every line that the code logs.
func (s *source) logLines(t *testing.T) map[string]bool {
	t.Helper()
	lines := make(map[string]bool)
	s.eachCall(func(call *ast.CallExpr) {
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || s.info.Selections[method] == nil || s.info.Selections[method].Recv().String() != "*go.uber.org/zap.Logger" {
			return
		}
		level, ok := loggerMethods[method.Sel.Name]
		if !ok {
			return
		}
		message := call.Args[0]
		if level == "" {
			level, message = s.levelIn(call.Args[:1]), call.Args[1]
		}
		for _, found := range s.trace(t, message, nil) {
			if found.level == "" {
				found.level = level
			}
			if level != "" && level != found.level {
				t.Errorf("%s: level %s, but %q comes with %s", s.fset.Position(call.Pos()), level, found.text, found.level)
			}
			if found.text != "" { // a check of the level alone
				lines[found.level+" "+found.text] = true
			}
		}
	})
	return lines
}

// fieldValues returns the values that zap.String sets a field to.
func (s *source) fieldValues(t *testing.T, name string) map[string]bool {
	t.Helper()
	values := make(map[string]bool)
	s.eachCall(func(call *ast.CallExpr) {
		fn, ok := s.callee(call).(*types.Func)
		if !ok || fn.FullName() != "go.uber.org/zap.String" || s.constant(call.Args[0]) != name {
			return
		}
		for _, found := range s.trace(t, call.Args[1], nil) {
			values[found.text] = true
		}
	})
	return values
}

// text is a constant that an expression may stand for, with the log level that
// is written next to it, if there is one.
type text struct{ level, text string }

// trace returns the constants that a string expression may stand for. It
// follows parameters to the calls of their function, fields to the literals of
// their struct, variables to what is assigned to them, calls to what the
// function returns, indexes to all elements, and conversions from a type of
// ours to its constants. Fields of other modules' types stand for nothing. seen has the objects on
// the way here.
func (s *source) trace(t *testing.T, e ast.Expr, seen []types.Object) (found []text) {
	t.Helper()
	e = ast.Unparen(e)
	if value := s.info.Types[e].Value; value != nil && value.Kind() == constant.String {
		return []text{{text: constant.StringVal(value)}}
	}
	lost := func() {
		t.Errorf("%s: cannot tell which texts this stands for; use a constant", s.fset.Position(e.Pos()))
	}
	if list, ok := e.(*ast.CompositeLit); ok { // of an array, slice or map that was indexed
		for _, element := range list.Elts {
			if pair, ok := element.(*ast.KeyValueExpr); ok {
				element = pair.Value
			}
			found = append(found, s.trace(t, element, seen)...)
		}
		return found
	}
	if index, ok := e.(*ast.IndexExpr); ok {
		e = ast.Unparen(index.X)
	}
	var object types.Object
	switch e := e.(type) {
	case *ast.Ident:
		object = s.info.Uses[e]
	case *ast.SelectorExpr:
		object = s.info.Uses[e.Sel]
	case *ast.CallExpr:
		if s.info.Types[e.Fun].IsType() {
			return s.constantsOf(s.info.Types[e.Args[0]].Type)
		}
		object = s.callee(e)
	}
	if object == nil || object.Pkg() == nil {
		lost()
		return nil
	}
	if _, ok := ours(object.Pkg().Path()); !ok || slices.Contains(seen, object) {
		return nil
	}
	seen = append(seen, object)
	sources := s.sourcesOf(object)
	if len(sources) == 0 {
		lost()
	}
	for _, from := range sources {
		for _, one := range s.trace(t, from.expr, seen) {
			if one.level == "" {
				one.level = from.level
			}
			found = append(found, one)
		}
	}
	return found
}

// origin is an expression whose value an object may get.
type origin struct {
	expr  ast.Expr
	level string // a constant level that is given together with it
}

func (s *source) sourcesOf(object types.Object) (found []origin) {
	add := func(e ast.Expr, siblings []ast.Expr) { found = append(found, origin{e, s.levelIn(siblings)}) }
	for _, file := range s.files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr: // a parameter gets an argument
				fn, ok := s.callee(n).(*types.Func)
				if !ok {
					break
				}
				params := fn.Origin().Signature().Params()
				for i := range min(params.Len(), len(n.Args)) {
					if params.At(i) == object {
						add(n.Args[i], n.Args)
					}
				}
			case *ast.CompositeLit: // a field gets an element
				elements := make([]ast.Expr, len(n.Elts))
				for i, element := range n.Elts {
					elements[i] = element
					if pair, ok := element.(*ast.KeyValueExpr); ok {
						elements[i] = pair.Value
					}
				}
				structure, ok := s.info.Types[n].Type.Underlying().(*types.Struct)
				if !ok {
					break
				}
				for i, element := range n.Elts {
					if pair, ok := element.(*ast.KeyValueExpr); ok {
						if key, ok := pair.Key.(*ast.Ident); ok && s.info.Uses[key] == object {
							add(pair.Value, elements)
						}
					} else if structure.Field(i) == object {
						add(element, elements)
					}
				}
			case *ast.AssignStmt:
				for i, left := range n.Lhs {
					if len(n.Lhs) == len(n.Rhs) && s.objectOf(left) == object {
						add(n.Rhs[i], n.Rhs)
					}
				}
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) && s.info.Defs[name] == object {
						add(n.Values[i], nil)
					}
				}
			case *ast.FuncDecl: // a call gets what the function returns
				if s.info.Defs[n.Name] == object {
					s.eachReturn(n.Body, func(results []ast.Expr) { add(results[0], results) })
				}
			}
			return true
		})
	}
	return found
}

// objectOf returns what the left side of an assignment names.
func (s *source) objectOf(e ast.Expr) types.Object {
	switch e := ast.Unparen(e).(type) {
	case *ast.Ident:
		if object := s.info.Defs[e]; object != nil {
			return object
		}
		return s.info.Uses[e]
	case *ast.SelectorExpr:
		return s.info.Uses[e.Sel]
	}
	return nil
}

// eachReturn calls f with the results of each return of a function, but not of
// functions within it.
func (s *source) eachReturn(body *ast.BlockStmt, f func(results []ast.Expr)) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.ReturnStmt:
			if len(n.Results) > 0 {
				f(n.Results)
			}
		}
		return true
	})
}

func (s *source) eachCall(f func(*ast.CallExpr)) {
	for _, file := range s.files {
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				f(call)
			}
			return true
		})
	}
}

// callee returns the function that is called; nil if it is a value.
func (s *source) callee(call *ast.CallExpr) types.Object {
	fun := ast.Unparen(call.Fun)
	if generic, ok := fun.(*ast.IndexExpr); ok {
		fun = generic.X
	}
	switch fun := fun.(type) {
	case *ast.Ident:
		return s.info.Uses[fun]
	case *ast.SelectorExpr:
		return s.info.Uses[fun.Sel]
	}
	return nil
}

// constant returns the value of a constant string expression, or "".
func (s *source) constant(e ast.Expr) string {
	if value := s.info.Types[e].Value; value != nil && value.Kind() == constant.String {
		return constant.StringVal(value)
	}
	return ""
}

// levelIn returns the first constant of zap's type of levels, in capitals.
func (s *source) levelIn(expressions []ast.Expr) string {
	for _, e := range expressions {
		typed := s.info.Types[e]
		if typed.Value == nil || typed.Type.String() != "go.uber.org/zap/zapcore.Level" {
			continue
		}
		if n, ok := constant.Int64Val(typed.Value); ok {
			return map[int64]string{-1: "DEBUG", 0: "INFO", 1: "WARN", 2: "ERROR"}[n]
		}
	}
	return ""
}

// constantsOf returns the values of all constants of a type of ours.
func (s *source) constantsOf(of types.Type) (found []text) {
	for _, object := range s.info.Defs {
		if c, ok := object.(*types.Const); ok && types.Identical(c.Type(), of) && c.Val().Kind() == constant.String {
			found = append(found, text{text: constant.StringVal(c.Val())})
		}
	}
	return found
}

// TestTraceFindsMessages keeps the search honest about what it follows: each
// kind of line of the code as it is must be found with its level.
func TestTraceFindsMessages(t *testing.T) {
	lines := loadSource(t).logLines(t)
	for _, want := range []string{
		"INFO relays drained",               // a constant argument
		"WARN backend failed, first strike", // a parameter, with its level
		"ERROR client refused",              // a table of structs, with its level
		"ERROR event command not found",     // a function that returns the message
	} {
		if !lines[want] {
			t.Errorf("not found: %s", want)
		}
	}
}
