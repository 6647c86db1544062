package asyncrelay

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

const editedMain = `# The comments of the main file are not in the runtime file.
services:
  - &db
    name: db
    protocol: tcp
    listen: {address: 127.0.0.1, port: 5432}
    backends: ["10.0.0.1:5432", "10.0.0.2:5432"]
    backend_cooldown: 30:00
    event_hook: {command: /bin/notify, args: [--token, s3cret, 7], events: [backend_failed]}
  - <<: *db
    name: "yes"
    listen: {address: "::1", port: 8_080}
web_ui: {enabled: on, auth: {enabled: yes, username: 123, password: sesame}}
extra: [~, 1.5, .inf, 0x10, text]
`

// writeMain writes a main file and returns its source.
func writeMain(t *testing.T, a *Adapter, text string) Source {
	t.Helper()
	path := filepath.Join(t.TempDir(), "relay.yaml")
	relaytest.WriteFile(t, path, text)
	s, err := a.ReadSource(path, []byte(text))
	relaytest.Check(t, err)
	return s
}

// Settings are shown in async-relay's shape, with the types of YAML 1.1, and without
// secrets.
func TestSourceJSON(t *testing.T) {
	s := writeMain(t, newAdapter(), editedMain)
	got, err := s.JSON()
	relaytest.Check(t, err)
	const hook = `"event_hook":{"command":"/bin/notify","args":["********","********","********"],"events":["backend_failed"]}`
	want := `{"services":[` +
		`{"name":"db","protocol":"tcp","listen":{"address":"127.0.0.1","port":5432},"backends":["10.0.0.1:5432","10.0.0.2:5432"],"backend_cooldown":1800,` + hook + `},` +
		`{"name":"yes","listen":{"address":"::1","port":8080},"protocol":"tcp","backends":["10.0.0.1:5432","10.0.0.2:5432"],"backend_cooldown":1800,` + hook + `}],` +
		`"web_ui":{"enabled":true,"auth":{"enabled":true,"username":123,"password":"********"}},` +
		`"extra":[null,1.5,".inf",16,"text"]}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What the page gets and sends back unchanged means the same, secrets included.
func TestEditWithoutChange(t *testing.T) {
	a := newAdapter()
	s := writeMain(t, a, editedMain)
	before, err := a.Settings(s)
	relaytest.Check(t, err)
	shown, err := s.JSON()
	relaytest.Check(t, err)
	edited, config, warnings, err := a.EditSource(s, shown)
	relaytest.Check(t, err)
	if after, err := a.Settings(edited); err != nil || !bytes.Equal(after, before) || !bytes.Contains(config, []byte(edited.Hash())) {
		t.Errorf("got\n%s, %v\nwant\n%s", config, err, before)
	}
	if len(warnings) != 1 || warnings[0].Directive != "extra" {
		t.Errorf("warnings %v", warnings)
	}
	if !edited.Edited || edited.File() != filepath.Join(filepath.Dir(s.Path), "config.runtime.yaml") {
		t.Errorf("edited %v, file %s", edited.Edited, edited.File())
	}
	if again, err := edited.JSON(); err != nil || !bytes.Equal(again, shown) {
		t.Errorf("shown %s, %v, want %s", again, err, shown)
	}
	meta, err := readMeta(edited.Text)
	relaytest.Check(t, err)
	if meta.hash != MainHash([]byte(editedMain)) || meta.source != "ui_modified" || !bytes.HasPrefix(edited.Text, []byte("_meta:\n")) {
		t.Errorf("%+v in\n%s", meta, edited.Text)
	}
	for _, want := range []string{`name: "yes"`, `password: "sesame"`, `- "s3cret"`, `- "7"`, `port: 8080`} {
		if !bytes.Contains(edited.Text, []byte(want)) {
			t.Errorf("no %s in\n%s", want, edited.Text)
		}
	}
}

// The hash of settings does not help to guess a secret, and ignores comments.
func TestSourceHash(t *testing.T) {
	a := newAdapter()
	hash := func(text string) string { return writeMain(t, a, text).Hash() }
	if first := hash(editedMain); first != hash(strings.Replace(editedMain, "sesame", "other", 1)+"# comment") ||
		first != hash(strings.Replace(editedMain, "s3cret", "other", 1)) {
		t.Error("the hash depends on secrets or comments")
	} else if first == hash(strings.Replace(editedMain, "5432", "5433", 1)) || first == hash("{") {
		t.Error("the hash does not depend on the settings")
	}
}

// An edit that does not mention the page keeps it, with its password.
func TestEditKeepsPage(t *testing.T) {
	const services = "services: [{name: a, listen: {address: 127.0.0.1, port: 1}, backends: [\"x:80\"]}]\n"
	const other = `{"services":[{"name":"b","listen":{"address":"127.0.0.1","port":2},"backends":["x:80"]}]`
	a := newAdapter()
	s := writeMain(t, a, services+"auth: &auth {enabled: yes, username: 0x10, password: sesame}\nweb_ui: {enabled: on, <<: {port: 8_099}, auth: *auth}\n")
	edited, _, _, err := a.EditSource(s, []byte(other+"}"))
	relaytest.Check(t, err)
	for _, want := range []string{"port: 8_099", "enabled: on", "password: sesame", "username: 0x10", "name: b"} {
		if !bytes.Contains(edited.Text, []byte(want)) {
			t.Errorf("no %s in\n%s", want, edited.Text)
		}
	}
	edited, config, _, err := a.EditSource(edited, []byte(other+`,"web_ui":{"enabled":false}}`))
	relaytest.Check(t, err)
	if bytes.Contains(edited.Text, []byte("sesame")) || decodeWhole(t, config).Apps.HTTP != nil {
		t.Errorf("still there:\n%s", edited.Text)
	}
	edited, _, _, err = a.EditSource(writeMain(t, a, services), []byte(other+"}"))
	relaytest.Check(t, err)
	if bytes.Contains(edited.Text, []byte("web_ui")) {
		t.Errorf("a page from nowhere:\n%s", edited.Text)
	}
}

// Hidden values follow their service when it is renamed or moved.
func TestEditRestoresHidden(t *testing.T) {
	const main = `services:
  - {name: a, listen: {address: 127.0.0.1, port: 1}, backends: ["x:80"], event_hook: {command: /a, args: [one], events: [backend_failed]}}
  - {name: b, listen: {address: 127.0.0.1, port: 2}, backends: ["x:80"], event_hook: {command: /b, args: [two], events: [backend_failed]}}
`
	service := func(name, port, args string) string {
		return `{"name":"` + name + `","listen":{"address":"127.0.0.1","port":` + port + `},"backends":["x:80"],"event_hook":{"command":"/c","args":` + args + `,"events":["backend_failed"]}}`
	}
	for _, test := range []struct{ edit, args, problem string }{
		{service("a", "1", `["********"]`) + "," + service("b", "2", `["********"]`), "one two", ""},
		{service("b", "2", `["********"]`) + "," + service("a", "1", `["********"]`), "two one", ""},
		{service("renamed", "1", `["********"]`) + "," + service("b", "2", `["********", "new"]`), "one two new", ""},
		{service("b", "2", `["********"]`), "two", ""},
		{service("a", "1", `["********","********"]`), "", `line 1: service "a": event_hook.args: "********" stands for the current value, and there is none; write the value`},
		{service("a", "1", `["x"]`) + "," + service("b", "2", `["********"]`) + ",\n" + service("new", "3", `["********"]`), "", `line 2: service "new": event_hook.args: "********" stands for`},
	} {
		a := newAdapter()
		edited, _, _, err := a.EditSource(writeMain(t, a, main), []byte(`{"services":[`+test.edit+`]}`))
		if test.problem != "" {
			if err == nil || !strings.HasPrefix(err.Error(), test.problem) {
				t.Errorf("%s: %v, want %s", test.edit, err, test.problem)
			}
			continue
		}
		relaytest.Check(t, err)
		var args []string
		for _, s := range items(child(parseYAML(&report{}, edited.Text), "services")) {
			for _, arg := range items(child(s, "event_hook", "args")) {
				args = append(args, arg.Value)
			}
		}
		if got := strings.Join(args, " "); got != test.args {
			t.Errorf("%s: args %q, want %q", test.edit, got, test.args)
		}
	}
}

// Problems of an edit have the lines of the request's body.
func TestEditProblems(t *testing.T) {
	a := newAdapter()
	s := writeMain(t, a, editedMain)
	for body, want := range map[string]string{
		"":                        "line 1: not valid JSON: unexpected EOF",
		"{\"services\": [\n\n{]}": "line 3: not valid JSON: invalid character ']'",
		"{\"services\": []} x":    "line 1: not valid JSON: invalid character 'x'",
		"{\"services\": []} []":   "line 1: not valid JSON: text after the end of the value",
		"[]":                      `line 1: must be a mapping with the key "services", got a list`,
		"{}":                      "line 1: services: is missing; must be a list of services",
		"{\n\"services\": [],\n\"services\": []}": "line 2: services: must be a list of services with at least one, got an empty list\nline 3: services: given twice, first on line 2",
		"\xff":                    "line 1: not valid UTF-8",
		strings.Repeat("[", 1000): "line 1: not valid JSON: values are nested too deeply",
		"{\"services\": [\n{\"name\": \"db\",\n\"listen\": {\"address\": \"127.0.0.1\",\n\"port\": 65536},\n\"backends\": [\"x:80\",\n\"y\"]}]}": "" +
			"line 4: service \"db\": listen.port: must be 1 to 65535, got 65536\nline 6: service \"db\": backends: \"y\": port is missing",
		`{"services": [{"name": "db", "listen": {"address": "127.0.0.1", "port": 1}, "backends": ["x:80"]}], "web_ui": {"enabled": true, "auth": {"enabled": true, "username": "u", "password": ""}}}`: "line 1: web_ui.auth.password: must be text, because auth is enabled, got nothing",
	} {
		_, _, _, err := a.EditSource(s, []byte(body))
		var problems Problems
		if !errors.As(err, &problems) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.80q:\ngot  %v\nwant %s", body, err, want)
		}
	}
}

// JSON numbers and texts survive the way through YAML 1.1, which reads some of them
// as something else.
func TestEditTypes(t *testing.T) {
	a := newAdapter()
	s := writeMain(t, a, editedMain)
	for _, name := range []string{"yes", "~", "1e3", "10:30", "0x1F", "<<", "=", "2001-01-01", "a: b", "#", " x", "a\nb", "é", "'", `"`, "", "-", "- a", "null", ".inf", "*a", "&a", "!a", "%", "@", "`", "{a}", "[a]", "\\", "a #b", "true", "NO"} {
		text, err := json.Marshal(name)
		relaytest.Check(t, err)
		_, _, _, err = a.EditSource(s, []byte(`{"services":[{"name":"n","listen":{"address":"127.0.0.1","port":8.08e3},"backends":["x:80"],"backend_cooldown":1E1}],"extra":[`+string(text)+`]}`))
		relaytest.Check(t, err)
		edited, config, _, err := a.EditSource(s, []byte(`{"services":[{"name":"n","listen":{"address":"127.0.0.1","port":1},"backends":["x:80"],"backend_cooldown":1E1,
			"event_hook":{"command":"c","args":[`+string(text)+`],"events":["backend_failed"]}}],"extra":[`+string(text)+`]}`))
		if strings.ContainsAny(name, "\n") { // not an argument
			continue
		}
		relaytest.Check(t, err)
		hook := decodeWhole(t, config).Apps.Layer4.Servers["n"].Routes[0].Handle[0].EventHook
		if got := strings.NewReplacer(`\{`, "{", `\}`, "}").Replace(hook.Args[0]); got != name {
			t.Errorf("%q became %q", name, got)
		}
		got, err := edited.JSON()
		relaytest.Check(t, err)
		var shown struct{ Extra []any }
		relaytest.Check(t, json.Unmarshal(got, &shown))
		if shown.Extra[0] != name {
			t.Errorf("%q became %#v in\n%s", name, shown.Extra[0], edited.Text)
		}
	}
}

// Which of the two files is active, and what the notes say.
func TestReadSource(t *testing.T) {
	const main = "services: [{name: a, listen: {address: 127.0.0.1, port: 1}, backends: [\"x:80\"]}]\n"
	const other = "services: [{name: b, listen: {address: 127.0.0.1, port: 2}, backends: [\"x:80\"]}]\n"
	meta := func(source, of string) string {
		return "_meta: {base_config_hash: " + MainHash([]byte(of)) + ", source: " + source + "}\n"
	}
	const active = "runtime file active: the settings are the edits made in the page, not those of "
	for name, test := range map[string]struct {
		runtime string
		edited  bool
		note    string
	}{
		"edited":                {meta("ui_modified", main) + other, true, active},
		"edited before":         {meta("ui_modified", main+"#") + other, false, "runtime file ignored: "},
		"a copy":                {meta("config.yaml", main) + main, false, ""},
		"a copy edited by hand": {meta("config.yaml", main) + other, true, active},
		"an old copy":           {meta("config.yaml", main+"#") + other, false, ""},
		"no hash":               {"_meta: {source: ui_modified}\n" + other, false, "runtime file ignored, using "},
		"no meta":               {other, false, "runtime file ignored, using "},
		"a list":                {"[]", false, "runtime file ignored, using "},
		"no YAML":               {"{", false, "runtime file ignored, using "},
		"empty":                 {"", false, "runtime file ignored, using "},
		"bad settings":          {meta("ui_modified", main) + "services: []", false, "runtime file ignored, using "},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAdapter()
			s := writeMain(t, a, main)
			if s.Edited || len(s.Notes) != 0 {
				t.Errorf("without a runtime file: %+v", s)
			}
			relaytest.WriteFile(t, s.Runtime, test.runtime)
			out, warnings, err := a.Adapt([]byte(main), map[string]any{"filename": s.Path})
			relaytest.Check(t, err)
			if _, edited := decodeWhole(t, out).Apps.Layer4.Servers["b"]; edited != test.edited {
				t.Errorf("edited: %v", edited)
			}
			switch {
			case test.note == "" && len(warnings) != 0:
				t.Errorf("warnings %v", warnings)
			case test.note != "" && (len(warnings) != 1 || warnings[0].File != s.Runtime || !strings.HasPrefix(warnings[0].Message, test.note)):
				t.Errorf("warnings %v, want %q", warnings, test.note)
			}
		})
	}
}

func TestReadSourceUnreadable(t *testing.T) {
	a := newAdapter()
	s := writeMain(t, a, editedMain)
	relaytest.Check(t, os.Mkdir(s.Runtime, 0o700)) // also for root, whom permissions do not stop
	s, err := a.ReadSource(s.Name, s.Main)
	relaytest.Check(t, err)
	if s.Edited || len(s.Notes) != 1 || !strings.Contains(s.Notes[0].Message, "runtime file ignored, using ") {
		t.Errorf("%+v", s)
	}
}

// The runtime file is next to the file that a symbolic link leads to, and is no
// runtime file of itself.
func TestSourcePaths(t *testing.T) {
	s := writeMain(t, newAdapter(), editedMain)
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(s.Path, link); err != nil {
		t.Skip(err)
	}
	linked, err := MainSource(link, nil)
	relaytest.Check(t, err)
	if linked.Path != link || linked.Runtime != s.Runtime || linked.Name != link {
		t.Errorf("%+v", linked)
	}
	body := []byte("_meta: {base_config_hash: 0, source: ui_modified}\n" + webServices + "{enabled: true}")
	relaytest.Check(t, os.WriteFile(s.Runtime, body, 0o600))
	if own, err := newAdapter().ReadSource(s.Runtime, body); err != nil || own.Edited || len(own.Notes) != 0 {
		t.Errorf("%+v, %v", own, err)
	}
}
