package module

import (
	"reflect"
	"slices"
	"testing"

	"github.com/async-relay/caddy-relay/resolver"
	"github.com/async-relay/caddy-relay/upstream"
)

func TestExpand(t *testing.T) {
	srv := func(name string) upstream.Address {
		return upstream.Address{Text: srvPrefix + name, Host: srvPrefix + name}
	}
	plain := func(host, shown string) upstream.Address {
		return upstream.Address{Text: shown + ":1", Host: host, Port: 1}
	}
	targets := map[string][]upstream.Address{
		"one": addressesOf([]resolver.Target{{Host: "a.test.", Port: 1}, {Host: "b.test.", Port: 1}}),
		"two": addressesOf([]resolver.Target{{Host: "b.test.", Port: 1}, {Host: "c.test.", Port: 1}}),
	}
	a, b, c := targets["one"][0], targets["one"][1], targets["two"][1]
	for name, test := range map[string]struct{ configured, want []upstream.Address }{
		"no SRV":            {[]upstream.Address{plain("x", "x"), plain("y", "y")}, []upstream.Address{plain("x", "x"), plain("y", "y")}},
		"between others":    {[]upstream.Address{plain("x", "x"), srv("one"), plain("y", "y")}, []upstream.Address{plain("x", "x"), a, b, plain("y", "y")}},
		"unknown targets":   {[]upstream.Address{srv("three"), plain("y", "y")}, []upstream.Address{srv("three"), plain("y", "y")}},
		"a target of both":  {[]upstream.Address{srv("one"), srv("two")}, []upstream.Address{a, b, c}},
		"configured before": {[]upstream.Address{plain("b.test", "b.test"), srv("one")}, []upstream.Address{plain("b.test", "b.test"), a}},
		"configured after":  {[]upstream.Address{srv("one"), plain("b.test", "b.test")}, []upstream.Address{a, plain("b.test", "b.test")}},
		"in capitals":       {[]upstream.Address{srv("one"), plain("b.test", "B.test")}, []upstream.Address{a, plain("b.test", "B.test")}},
	} {
		got := expand(test.configured, func(name string) []upstream.Address { return targets[name] })
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestDiffOrder(t *testing.T) {
	for name, test := range map[string]struct {
		before, after []string
		want          orderChange
		text          string
	}{
		"same":      {[]string{"a", "b"}, []string{"a", "b"}, orderChange{}, ""},
		"added":     {[]string{"a"}, []string{"b", "a", "c"}, orderChange{added: []string{"b", "c"}}, "added b, c"},
		"removed":   {[]string{"a", "b"}, []string{"b"}, orderChange{removed: []string{"a"}}, "removed a"},
		"moved":     {[]string{"a", "b"}, []string{"b", "a"}, orderChange{moved: []string{"b", "a"}}, "moved b, a"},
		"all three": {[]string{"a", "b", "c"}, []string{"c", "d", "b"}, orderChange{[]string{"d"}, []string{"a"}, []string{"c", "b"}}, "added d; removed a; moved c, b"},
	} {
		if got := diffOrder(test.before, test.after); !reflect.DeepEqual(got, test.want) || got.String() != test.text {
			t.Errorf("%s: %+v (%s), want %+v (%s)", name, got, got, test.want, test.text)
		}
	}
}
