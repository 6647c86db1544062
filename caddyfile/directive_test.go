package caddyfile

import (
	"path/filepath"
	"strings"
	"testing"

	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// writtenConfig returns the Caddyfile of a config.
func writtenConfig(c Config) (string, error) {
	var b strings.Builder
	err := WriteCaddyfile(&b, 0, []Directive{{Name: "relay", Block: c.Directives()}})
	return b.String(), err
}

// checkWrittenAgain checks that a config is the same after it was written and read.
func checkWrittenAgain(t *testing.T, c Config) {
	t.Helper()
	text, err := writtenConfig(c)
	if err != nil {
		return // the text of an option that no Caddyfile can have
	}
	back, err := parseCaddyfile(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if got, want := indent(t, back), indent(t, c); got != want {
		t.Errorf("got %s after writing\n%s\nwant %s", got, text, want)
	}
	if formatted := string(cfile.Format([]byte(text))); formatted != text {
		t.Errorf("caddy fmt changes it from\n%s\nto\n%s", text, formatted)
	}
}

// TestDirectives writes the config of each valid Caddyfile and reads it again.
func TestDirectives(t *testing.T) {
	written := 0
	for _, file := range relaytest.Glob(t, "testdata/caddyfile/*.caddytest") {
		input, _, _ := strings.Cut(string(relaytest.ReadFile(t, file)), separator)
		c, err := parseCaddyfile(input)
		if err != nil {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddytest"), func(t *testing.T) {
			if text, err := writtenConfig(c); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			checkWrittenAgain(t, c)
		})
		written++
	}
	if written < 10 {
		t.Errorf("only %d files are valid", written)
	}
}

// TestTokens writes odd arguments and reads them again.
func TestTokens(t *testing.T) {
	for _, text := range []string{
		"plain", "", " ", "a b", "a\tb", "a\nb", `"`, `a"b c`, "`", "a`b", `\`, `a\`, `a\ b`, `\"`, `c:\dir\`, `\{x\}`, "{", "}", "#", "a#b", "<<EOF", "<", "<<",
		"ü", "\u00a0", "\u2003x", "{env.X}", "import", "a,b", "&(x)",
	} {
		token, err := Token(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		d, err := cfile.Tokenize([]byte("x "+token+" end\n"), "")
		if err != nil || len(d) != 3 || d[1].Text != text || d[2].Text != "end" {
			t.Errorf("%q is written as %s and read as %v, %v", text, token, d, err)
		}
	}
	for _, text := range []string{"{$HOME}", "a\rb", "`\\"} {
		if token, err := Token(text); err == nil {
			t.Errorf("%q is written as %s", text, token)
		}
	}
}

// Directives write comments above a line and at its end.
func TestCommentsOfDirectives(t *testing.T) {
	var b strings.Builder
	err := WriteCaddyfile(&b, 1, []Directive{
		{Above: []string{"alone", ""}},
		{Above: []string{"first", "second"}, Name: "relay", Args: []string{"a:80"}, Comment: "end", Block: []Directive{{Name: "name", Args: []string{"a b"}, Comment: "its name"}}},
	})
	const want = "\t# alone\n\t#\n\t# first\n\t# second\n\trelay a:80 {\n\t\t# end\n\t\tname \"a b\" # its name\n\t}\n"
	if got := b.String(); err != nil || got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	whole := "x {\n" + b.String() + "}\n"
	if formatted := string(cfile.Format([]byte(whole))); formatted != whole {
		t.Errorf("caddy fmt changes it to\n%s", formatted)
	}
}

// TestEveryOptionIsDescribed checks that the table can set and write every option,
// and that help can describe it.
func TestEveryOptionIsDescribed(t *testing.T) {
	for _, o := range AllOptions() {
		if o.Usage == "" || o.Value == "" && o.Bare == "" {
			t.Errorf("%s has no description", o.Name)
		}
	}
	full := string(relaytest.ReadFile(t, "testdata/caddyfile/full.caddytest"))
	for name := range options {
		if !strings.Contains(full, name) {
			t.Errorf("full.caddytest lacks %s", name)
		}
	}
}

func TestSet(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want string // of the error; "": none
	}{
		{"health_check", nil, ""},
		{"health_check", []string{"10s"}, ""},
		{"health_check.send", []string{"x"}, ""},
		{"event_hook.events", []string{"backend_failed"}, "requires event_hook"},
		{"idle_timeout", nil, "needs a value: <duration>"},
		{"idle_timeout", []string{"1s", "2s"}, "too many values"},
		{"idle_timeout", []string{"soon"}, "must be a duration"},
		{"health_check", []string{"soon"}, "must be a duration"},
		{"colour", []string{"red"}, `unknown option "colour"`},
	} {
		var c Config
		err := c.Set(test.name, test.args...)
		if err == nil != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %v: %v", test.name, test.args, err)
		}
	}
}
