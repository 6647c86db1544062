package caddyfile

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func TestParseBackend(t *testing.T) {
	long := strings.Repeat("a", 63)
	name253 := strings.Join([]string{long, long, long, long[:61]}, ".")
	for _, tt := range []struct {
		in, text, host string
		port           uint16
		addr           string
	}{
		{"example.com:80", "example.com:80", "example.com", 80, ""},
		{"Example.COM:80", "Example.COM:80", "example.com", 80, ""},
		{"example.com.:80", "example.com.:80", "example.com.", 80, ""},
		{"db:00080", "db:80", "db", 80, ""},
		{"my_service:1", "my_service:1", "my_service", 1, ""},
		{"_x.bücher.example:65535", "_x.bücher.example:65535", "_x.xn--bcher-kva.example", 65535, ""},
		{"BÜCHER.example:80", "BÜCHER.example:80", "xn--bcher-kva.example", 80, ""},
		{"faß.example:80", "faß.example:80", "xn--fa-hia.example", 80, ""},
		{"1a.2b:80", "1a.2b:80", "1a.2b", 80, ""},
		{name253 + ":80", name253 + ":80", name253, 80, ""},
		{"192.168.1.10:80", "192.168.1.10:80", "192.168.1.10", 80, "192.168.1.10"},
		{"[2001:db8::1]:80", "[2001:db8::1]:80", "2001:db8::1", 80, "2001:db8::1"},
		{"[2001:DB8:0:0::1]:80", "[2001:db8::1]:80", "2001:db8::1", 80, "2001:db8::1"},
		{"[fe80::1%eth0]:80", "[fe80::1%eth0]:80", "fe80::1%eth0", 80, "fe80::1%eth0"},
		{"[::ffff:10.0.0.1]:80", "10.0.0.1:80", "10.0.0.1", 80, "10.0.0.1"},
	} {
		want := Backend{Text: tt.text, Host: tt.host, Port: tt.port}
		if tt.addr != "" {
			want.Addr = netip.MustParseAddr(tt.addr)
		}
		got, err := ParseBackend(tt.in)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.in, got, err, want)
		}
		if again, err := ParseBackend(got.Text); err != nil || again != got {
			t.Errorf("%s: parsed again as %+v, %v", got.Text, again, err)
		}
	}
}

// The port may be that of the client.
func TestParseBackendOfClientPort(t *testing.T) {
	for in, want := range map[string]Backend{
		"Media:{port}":         {Text: "Media:{port}", Host: "media", ClientPort: true},
		"192.168.1.10:{port}":  {Text: "192.168.1.10:{port}", Host: "192.168.1.10", ClientPort: true, Addr: netip.MustParseAddr("192.168.1.10")},
		"[2001:DB8::1]:{port}": {Text: "[2001:db8::1]:{port}", Host: "2001:db8::1", ClientPort: true, Addr: netip.MustParseAddr("2001:db8::1")},
	} {
		if got, err := ParseBackend(in); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func TestParseBackendRejects(t *testing.T) {
	long := strings.Repeat("a", 63)
	for in, want := range map[string]string{
		"":                          "expected host:port",
		"example.com":               "port is missing",
		"example.com:":              "port is empty",
		":80":                       "host is empty",
		":":                         "host is empty",
		"example.com:0":             "must be 1 to 65535, got 0",
		"example.com:65536":         "must be 1 to 65535, got 65536",
		"example.com:65616":         "must be 1 to 65535",
		"x:99999999999999999999999": "must be 1 to 65535",
		"example.com:http":          `must be a number from 1 to 65535, got "http"`,
		"example.com:+80":           "must be a number",
		"example.com:-80":           "must be a number",
		"example.com:8_0":           "must be a number",
		"example.com:80.0":          "must be a number",
		"example.com:0x50":          "must be a number",
		"example.com:٨٠":            "must be a number",
		"http://example.com:80":     "a URL",
		"user@example.com:22":       "a user name",
		"tcp/example.com:80":        "a network prefix is not allowed",
		"srv/":                      "the name is missing",
		"srv/_pg._tcp.example:5432": "a port is not allowed",
		"srv/1.2.3.4":               "an address has no SRV records",
		"srv/a b":                   "blanks",
		"srv/_pg..example":          "a part between dots is empty",
		"UDP/1.2.3.4:80":            "a network prefix is not allowed",
		"relay+tcp/x:80":            "a network prefix is not allowed",
		"example.com/x:80":          "'/' is not allowed",
		" example.com:80":           "blanks",
		"example.com:80 ":           "blanks",
		"example.com: 80":           "blanks",
		"example.com:\t80":          "blanks",
		"exam ple.com:80":           "blanks",
		"a\u00a0b:80":               "blanks",
		"a\x00b:80":                 "control characters",
		"a\x7fb:80":                 "control characters",
		"a\u0085b:80":               "blanks",
		"a\xffb:80":                 "UTF-8",
		"2001:db8::1:80":            "[2001:db8::1]:80",
		"::1":                       "[2001:db8::1]:80",
		"a:b:80":                    "more than one colon",
		"[2001:db8:::1]:80":         "is not an IPv6 address",
		"[]:80":                     "only IPv6",
		"[::1]":                     "port is missing",
		"[::1]:":                    "port is empty",
		"[::1]x:80":                 "only a colon and a port",
		"[::1:80":                   "closing bracket",
		"[[::1]]:80":                "is not an IPv6 address",
		"[fe80::1%]:80":             "is not an IPv6 address",
		"[fe80::1%a]b]:80":          "is not an IPv6 address",
		"[10.0.0.1]:80":             "write 10.0.0.1 without",
		"[example.com]:80":          "only IPv6 addresses go in brackets",
		"a..b:80":                   "is empty",
		".a:80":                     "is empty",
		".:80":                      "is empty",
		"a..:80":                    "is empty",
		long + "a:80":               "at most 63 characters, got 64",
		strings.Join([]string{long, long, long, long[:62]}, ".") + ":80": "at most 253 characters, got 254",
		"127.1:80":                       "four numbers",
		"10:80":                          "four numbers",
		"256.1.1.1:80":                   "four numbers",
		"1.2.3.4.:80":                    "four numbers",
		"a.1:80":                         "four numbers",
		"１.２.３.４:80":                     "four numbers",
		"exa*mple:80":                    "'*' is not allowed",
		"{env.HOST}:80":                  "'{' is not allowed",
		"ü\u200b\u2e80\ufffe.example:80": "is not a host name",
		"xn--ü.example:80":               "is not a host name",
	} {
		b, err := ParseBackend(in)
		if err == nil {
			t.Errorf("%q: accepted as %+v", in, b)
		} else if !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), strconv.Quote(in)) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

func FuzzParseBackend(f *testing.F) {
	for _, text := range []string{
		"example.com:80", "[2001:db8::1]:443", "[fe80::1%eth0]:80", "10.0.0.1:65535", "bücher.example:80", "my_service:1",
		"[::ffff:10.0.0.1]:80", "2001:db8::1:80", "tcp/x:80", "http://x:80", "u@x:80", "127.1:80", "a..b:80", "[x]:80", "x:٨٠", "", "x:{port}", "[::1]:{port}",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := ParseBackend(text)
		if err != nil {
			if b != (Backend{}) || !strings.HasPrefix(err.Error(), strconv.Quote(text)) {
				t.Fatalf("got %+v with error %v", b, err)
			}
			return
		}
		if again, err := ParseBackend(b.Text); err != nil || again != b {
			t.Fatalf("%+v parsed again as %+v, %v", b, again, err)
		}
		if b.Host == "" || (b.Port == 0) != b.ClientPort || strings.ContainsFunc(b.Text, blankOrControl) || b.Addr.Is4In6() {
			t.Fatalf("invalid backend: %+v", b)
		}
		for _, c := range []byte(b.Host) {
			if !b.Addr.IsValid() && c >= 0x80 {
				t.Fatalf("host %q is not ASCII", b.Host)
			}
		}
		// Host alone must identify the backend, because it is what is looked up.
		host := b.Host
		if b.Addr.Is6() {
			host = "[" + host + "]"
		}
		if again, err := ParseBackend(host + ":1"); err != nil || again.Host != b.Host || again.Addr != b.Addr {
			t.Fatalf("host of %+v parsed as %+v, %v", b, again, err)
		}
	})
}

func TestParseSRVBackend(t *testing.T) {
	for in, want := range map[string]Backend{
		"srv/_pg._tcp.DB.example": {Text: "srv/_pg._tcp.DB.example", SRV: "_pg._tcp.db.example"},
		"srv/pg.consul.":          {Text: "srv/pg.consul.", SRV: "pg.consul."},
	} {
		if got, err := ParseBackend(in); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
	config := Config{Name: "web", Backends: []string{"srv/_a.example", "a:1", "srv/_A.example"}}
	if err := config.Validate(); err == nil || !strings.Contains(err.Error(), `"srv/_A.example": listed twice, first as "srv/_a.example"`) {
		t.Errorf("error %v, want one about the SRV backend that is listed twice", err)
	}
}
