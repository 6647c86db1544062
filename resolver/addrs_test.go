package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
			got, unusable, surplus := tidy(ips(strings.Fields(test.got)...), nil)
			if want := ips(strings.Fields(test.want)...); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if unusable != nil || surplus != 0 {
				t.Errorf("unusable %v, surplus %d, want none", unusable, surplus)
			}
		})
	}
}

// numbered returns n addresses of a network, beginning with its first one.
func numbered(network string, n int) (addrs []netip.Addr) {
	for addr := netip.MustParseAddr(network); len(addrs) < n; addr = addr.Next() {
		addrs = append(addrs, addr)
	}
	return addrs
}

// A name has at most 32 addresses, half of them of each family if both have as many.
func TestAddressesAreBounded(t *testing.T) {
	v4, v6 := numbered("10.0.0.1", 4000), numbered("2001:db8::1", 4000)
	for name, test := range map[string]struct {
		answer  []netip.Addr
		last    netip.Addr
		surplus int
	}{
		"one family":      {v4, v4[31], 4000 - 32},
		"both":            {slices.Concat(v4, v6), v6[15], 8000 - 32},
		"few of a family": {slices.Concat(v6, v4[:3]), v6[28], 4003 - 32},
		"32":              {v4[:32], v4[31], 0},
		"33":              {v4[:33], v4[31], 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, surplus := tidy(test.answer, nil)
			if len(got) != 32 || got[0] != test.answer[0] || got[31] != test.last {
				t.Errorf("got %v, want 32 addresses from %v to %v", got, test.answer[0], test.last)
			}
			if surplus != test.surplus {
				t.Errorf("surplus %d, want %d", surplus, test.surplus)
			}
		})
	}
}

// The rotation of a long answer changes neither the addresses nor their order. An
// address that is in the answer no more is replaced.
func TestRotationOfLongAnswerChangesNothing(t *testing.T) {
	all := slices.Concat(numbered("10.0.0.1", 100), numbered("2001:db8::1", 100))
	dns := &fakeDNS{addrs: map[string][]netip.Addr{"a.example": all}}
	c, events := newCache(t, dns)
	refresh := func() []netip.Addr {
		answer, err := c.Refresh(t.Context(), "a.example", time.Now(), patience)
		if err != nil {
			t.Fatal(err)
		}
		return answer.Addrs
	}
	first := refresh()
	for i := range 5 {
		rotated := slices.Concat(all[31*i:], all[:31*i])
		dns.set(func(d *fakeDNS) { d.addrs["a.example"] = rotated })
		if got := refresh(); !slices.Equal(got, first) {
			t.Fatalf("got %v, want %v as before the rotation", got, first)
		}
	}
	events.want(t, fmt.Sprintf("resolved a.example %v", first), fmt.Sprintf("ignored a.example [] %d", 200-32))
	dns.set(func(d *fakeDNS) {
		d.addrs["a.example"] = slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return a == first[0] })
	})
	if got := refresh(); len(got) != 32 || slices.Contains(got, first[0]) || !slices.Contains(got, first[31]) {
		t.Errorf("got %v, want %v with another address instead of the first", got, first)
	}
}

// An answer of up to 32 addresses stays in the order of the resolver, which sorts
// by preference.
func TestOrderOfShortAnswerIsThatOfTheResolver(t *testing.T) {
	got, _, _ := tidy(ips("192.0.2.2", "192.0.2.1"), ips("192.0.2.1", "192.0.2.2"))
	if want := ips("192.0.2.2", "192.0.2.1"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Addresses that no backend can have are ignored. The observer is notified once,
// and again after an answer without such addresses.
func TestUnusableAddressesAreIgnored(t *testing.T) {
	synctest.Test(t, testUnusableAddressesAreIgnored)
}

func testUnusableAddressesAreIgnored(t *testing.T) {
	good := []string{"192.0.2.1", "127.0.0.1", "2001:db8::1"}
	bad := []string{"0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "239.255.255.250", "255.255.255.255", "ff02::1"}
	dns := &fakeDNS{addrs: names("a.example", append(bad, good...)...)}
	c, events := newCache(t, dns)
	refresh := func(want ...string) {
		t.Helper()
		answer, err := c.Refresh(t.Context(), "a.example", time.Now(), patience)
		wantAnswer(t, answer, err, false, want...)
	}
	want := []string{"192.0.2.1", "2001:db8::1", "127.0.0.1"}
	const ignored = "ignored a.example [0.0.0.0 :: 224.0.0.1 239.255.255.250 255.255.255.255 ff02::1] 0"
	refresh(want...)
	refresh(want...)
	synctest.Wait() // the observer is notified after the answer
	events.want(t, "resolved a.example [192.0.2.1 2001:db8::1 127.0.0.1]", ignored)
	dns.set(func(d *fakeDNS) { d.addrs = names("a.example", good...) })
	refresh(want...)
	dns.set(func(d *fakeDNS) { d.addrs = names("a.example", append(bad, good...)...) })
	refresh(want...)
	synctest.Wait()
	events.want(t, ignored)
}

// A name whose addresses are all unusable does not resolve.
func TestNameWithoutUsableAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "0.0.0.0", "::")}
		c, events := newCache(t, dns)
		_, err := c.Lookup(t.Context(), "a.example", patience)
		const want = "lookup a.example: the answer has only addresses that no backend can have: 0.0.0.0, ::"
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		synctest.Wait() // the observer is notified after the answer
		events.want(t, "failed a.example: "+want)
	})
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
