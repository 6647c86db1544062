package version

import (
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestVersions(t *testing.T) {
	released := &debug.Module{Path: relay, Version: "v1.2.3"}
	tests := []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"no build information", debug.BuildInfo{}, Release},
		{"a dependency of xcaddy's program", debug.BuildInfo{Deps: []*debug.Module{released}}, "v1.2.3"},
		{"a dependency from a directory", debug.BuildInfo{Deps: []*debug.Module{
			{Path: relay, Version: "v0.0.0", Replace: &debug.Module{Path: "/src/relay"}},
		}}, Release},
		{"a dependency from a fork", debug.BuildInfo{Deps: []*debug.Module{
			{Path: relay, Version: "v1.2.3", Replace: &debug.Module{Path: "example.com/fork", Version: "v1.2.4"}},
		}}, "v1.2.4"},
		{"go run without version control", debug.BuildInfo{Main: debug.Module{Path: relay, Version: "(devel)"}}, Release},
		{"go build in a clone", debug.BuildInfo{Main: debug.Module{Path: relay, Version: "v1.2.4-0.20261127000000-0123456789ab"}},
			"v1.2.4-0.20261127000000-0123456789ab"},
	}
	for _, test := range tests {
		if got := from(&test.info).Relay; got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

func TestVersionsOnOneLine(t *testing.T) {
	v := from(&debug.BuildInfo{Deps: []*debug.Module{
		{Path: relay, Version: "v1.2.3"}, {Path: caddy, Version: "v2.11.9"}, {Path: caddyL4, Version: "v0.1.2"},
	}})
	want := "v1.2.3 (" + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + ", Caddy v2.11.9, caddy-l4 v0.1.2)"
	if got := v.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The constant is the version of the newest entry in the changelog.
func TestReleaseIsInChangelog(t *testing.T) {
	text, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	newest := regexp.MustCompile(`(?m)^## (\S+)`).FindSubmatch(text)
	if newest == nil || string(newest[1]) != Release {
		t.Errorf("the newest entry is %q, Release is %s", newest, Release)
	}
}
