package resolver

import (
	"slices"
	"strings"
	"testing"
)

func TestTidy(t *testing.T) {
	for name, test := range map[string]struct{ got, want string }{
		"nothing":                         {"", ""},
		"one family":                      {"192.0.2.3 192.0.2.1 192.0.2.2", "192.0.2.3 192.0.2.1 192.0.2.2"},
		"mapped":                          {"::ffff:192.0.2.1", "192.0.2.1"},
		"twice":                           {"192.0.2.1 2001:db8::1 ::ffff:192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1"},
		"IPv4 first":                      {"192.0.2.1 192.0.2.2 192.0.2.3 2001:db8::1", "192.0.2.1 2001:db8::1 192.0.2.2 192.0.2.3"},
		"IPv6 first":                      {"2001:db8::1 2001:db8::2 192.0.2.1 192.0.2.2", "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2"},
		"one address of the first family": {"2001:db8::1 192.0.2.1 192.0.2.2", "2001:db8::1 192.0.2.1 192.0.2.2"},
	} {
		t.Run(name, func(t *testing.T) {
			got := tidy(ips(strings.Fields(test.got)...))
			if want := ips(strings.Fields(test.want)...); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestAnswersAreTidy(t *testing.T) {
	dns := &fakeDNS{addrs: names("a.example", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1")}
	c, _ := newCache(t, dns)
	lookup(t, c, "a.example", false, "192.0.2.1", "2001:db8::1", "192.0.2.2")
}

func TestSameSet(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"192.0.2.1 192.0.2.2", "192.0.2.2 192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "192.0.2.1 192.0.2.2", false},
		{"192.0.2.1 192.0.2.2", "192.0.2.1", false},
	} {
		if got := sameSet(ips(strings.Fields(test.a)...), ips(strings.Fields(test.b)...)); got != test.want {
			t.Errorf("sameSet(%s, %s) = %v", test.a, test.b, got)
		}
	}
}
