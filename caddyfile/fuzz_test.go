package caddyfile

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func FuzzParseBackend(f *testing.F) {
	for _, text := range []string{
		"example.com:80", "[2001:db8::1]:443", "[fe80::1%eth0]:80", "10.0.0.1:65535", "bücher.example:80", "my_service:1",
		"[::ffff:10.0.0.1]:80", "2001:db8::1:80", "tcp/x:80", "http://x:80", "u@x:80", "127.1:80", "a..b:80", "[x]:80", "x:٨٠", "",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := ParseBackend(text)
		if err != nil {
			if b != (Backend{}) || !strings.HasPrefix(err.Error(), strconv.Quote(text)) {
				t.Fatalf("%+v with %v", b, err)
			}
			return
		}
		if again, err := ParseBackend(b.Text); err != nil || again != b {
			t.Fatalf("%+v reads back as %+v, %v", b, again, err)
		}
		if b.Host == "" || b.Port == 0 || strings.ContainsFunc(b.Text, blankOrControl) || b.Addr.Is4In6() {
			t.Fatalf("%+v", b)
		}
		for _, c := range []byte(b.Host) {
			if !b.Addr.IsValid() && c >= 0x80 {
				t.Fatalf("host %q is not ASCII", b.Host)
			}
		}
		// Host alone names the same endpoint: it is what gets looked up.
		host := b.Host
		if b.Addr.Is6() {
			host = "[" + host + "]"
		}
		if again, err := ParseBackend(host + ":1"); err != nil || again.Host != b.Host || again.Addr != b.Addr {
			t.Fatalf("host of %+v reads as %+v, %v", b, again, err)
		}
	})
}

func FuzzCaddyfile(f *testing.F) {
	for _, file := range glob(f, "testdata/caddyfile/*.caddytest") {
		input, _, _ := strings.Cut(string(readTestFile(f, file)), separator)
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input string) {
		c, err := parseCaddyfile(input)
		if err != nil {
			return
		}
		checkRoundTrip(t, c)
		_ = c.Validate()
		_ = c.Options()
		if field, _, _ := Diff(c, c); field != "" {
			t.Fatalf("%s differs from itself", field)
		}
		if r, err := c.Resolved(caddy.NewReplacer().WithoutFile()); err == nil {
			_ = r.Validate()
		}
	})
}

// checkRoundTrip holds for every config a Caddyfile gives, because Caddy keeps
// nothing of it but its JSON.
func checkRoundTrip(t *testing.T, c Config) {
	t.Helper()
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	decoder := json.NewDecoder(bytes.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&back); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if again, _ := json.Marshal(back); !bytes.Equal(out, again) {
		t.Fatalf("%s became %s", out, again)
	}
}

func FuzzYAML(f *testing.F) {
	for _, pattern := range []string{"testdata/yaml-corpus/*.yaml", "testdata/yaml/*.yaml"} {
		for _, file := range glob(f, pattern) {
			f.Add(readTestFile(f, file))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		given := bytes.Clone(body)
		out, warnings, err := Adapter{}.Adapt(body, nil)
		if !bytes.Equal(body, given) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			if out != nil {
				t.Fatalf("%s with %v", out, err)
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "line ") {
					t.Fatalf("a line without its place: %q", line)
				}
			}
			return
		}
		again, warningsAgain, err := Adapter{}.Adapt(body, nil)
		if err != nil || !bytes.Equal(out, again) || len(warnings) != len(warningsAgain) {
			t.Fatalf("%s became %s, %v", out, again, err)
		}
		for _, server := range decodeWhole(t, out).Apps.Layer4.Servers {
			checkRoundTrip(t, server.Routes[0].Handle[0].Config)
			for _, text := range server.Listen {
				if a, err := caddy.ParseNetworkAddress(text); err != nil || a.StartPort == 0 || a.Host == "" {
					t.Fatalf("listens on %s: %v", text, err)
				}
			}
		}
	})
}
