package caddyfile

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestPrefixes(t *testing.T) {
	tests := []struct {
		text, want string // want has the prefixes, sorted
	}{
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"10.1.2.3/8", "10.0.0.0/8"},
		{"192.0.2.7", "192.0.2.7/32"},
		{"2001:db8::/32,2001:db8::1", "2001:db8::/32 2001:db8::1/128"},
		{"::ffff:192.0.2.7", "192.0.2.7/32"},
		{"::ffff:192.0.2.0/120", "192.0.2.0/24"},
		{"0.0.0.0/0 ::/0", "0.0.0.0/0 ::/0"},
		{"192.0.2.7 192.0.2.7/32", "192.0.2.7/32"},
		{"private_ranges", "10.0.0.0/8 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16 ::1/128 fd00::/8"},
		{"# a list\n10.0.0.0/8 # one\r\n\n\t192.0.2.7,\n#192.0.2.8\n", "10.0.0.0/8 192.0.2.7/32"},
		{"", ""},
		{"# nothing", ""},
	}
	for _, test := range tests {
		if err := checkPrefixes([]string{test.text}); err != nil {
			t.Errorf("%q: %v", test.text, err)
		}
		var got []string
		for _, prefix := range prefixes([]string{test.text}) {
			got = append(got, prefix.String())
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
	for _, bad := range []string{"x", "10.0.0.0/33", "10.0.0/8", "fe80::1%eth0", "10.0.0.1-10.0.0.9", "::ffff:0:0/95", "example.com", "10.0.0.0/8 x"} {
		if err := checkPrefixes([]string{"192.0.2.1", bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// A list from a file is read when the config is loaded. One without any address is
// rejected: an empty allow would serve all clients.
func TestClientsFromFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clients")
	load := func(content string) (Config, error) {
		relaytest.Check(t, os.WriteFile(file, []byte(content), 0o600))
		c := Config{Backends: []string{"a:1"}, Allow: []string{"{file." + file + "}"}, Deny: []string{"{file." + file + "}"}}
		resolved, err := c.Resolved(caddy.NewReplacer())
		relaytest.Check(t, err)
		return resolved, resolved.Validate()
	}
	c, err := load("10.0.0.0/8 # ours\n192.0.2.7\n")
	relaytest.Check(t, err)
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32")}
	if o := c.Options(); !slices.Equal(o.Allow, want) || !slices.Equal(o.Deny, want) {
		t.Errorf("got %v and %v", o.Allow, o.Deny)
	}
	if _, err := load("# none\n"); err == nil || !strings.Contains(err.Error(), "allow: lists no address") {
		t.Errorf("a file without an address: %v", err)
	}
	_, err = load("10.0.0.0/8\n10.0.0.0/99\n")
	for _, want := range []string{`allow: must be an address`, `deny: must be an address`, `"10.0.0.0/99"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestDiffOfClients(t *testing.T) {
	with := func(allow, deny string) Config {
		c := Config{Name: "web", Backends: []string{"a:1"}}
		if allow != "" {
			c.Allow = []string{allow}
		}
		if deny != "" {
			c.Deny = []string{deny}
		}
		return c
	}
	checkDiff(t, with("10.0.0.0/8,192.0.2.7", ""), with("192.0.2.7 10.0.0.1/8", ""), "", "", "")
	checkDiff(t, with("", ""), with("10.0.0.0/8", ""), "allow", "all", "10.0.0.0/8")
	checkDiff(t, with("", "192.0.2.1"), with("", ""), "deny", "192.0.2.1/32", "none")
	checkDiff(t, with("", ""), with("", "1.0.0.0 2.0.0.0 3.0.0.0 4.0.0.0 5.0.0.0 6.0.0.0 7.0.0.0 8.0.0.0 9.0.0.0 10.0.0.0"), "deny", "none",
		"1.0.0.0/32, 2.0.0.0/32, 3.0.0.0/32, 4.0.0.0/32, 5.0.0.0/32, 6.0.0.0/32, 7.0.0.0/32, 8.0.0.0/32 and 2 more")
}
