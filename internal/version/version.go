// Package version returns the versions of the relay and of what it is built with.
package version

import (
	"cmp"
	"runtime"
	"runtime/debug"
	"strings"
)

// Release is the version of the newest entry in CHANGELOG.md. It stands for builds
// that record no version of their own: from a directory, or by go build in a clone.
const Release = "v0.1.0"

// Module paths, as the build information has them.
const (
	relay   = "github.com/async-relay/caddy-relay"
	caddy   = "github.com/caddyserver/caddy/v2"
	caddyL4 = "github.com/mholt/caddy-l4"
)

// Versions are the versions of a build, such as "v1.2.3". Those of Caddy and
// caddy-l4 are empty if the build does not record them.
type Versions struct {
	Relay, Caddy, CaddyL4 string
	Go                    string // such as "go1.26.8"
}

// Get returns the versions of the running program.
func Get() Versions {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return from(info)
}

func from(info *debug.BuildInfo) Versions {
	return Versions{
		Relay:   cmp.Or(recorded(info, relay), Release),
		Caddy:   recorded(info, caddy),
		CaddyL4: recorded(info, caddyL4),
		Go:      runtime.Version(),
	}
}

// recorded returns the version of a module, or "" if the build has none that tells
// anything: a module that was built from a directory has v0.0.0, whatever is in the
// directory, or (devel).
func recorded(info *debug.BuildInfo, path string) string {
	modules := append([]*debug.Module{&info.Main}, info.Deps...)
	for _, m := range modules {
		if m.Path != path {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		if !strings.HasPrefix(m.Version, "v") || m.Version == "v0.0.0" {
			return ""
		}
		return m.Version
	}
	return ""
}

// String returns the versions on one line.
func (v Versions) String() string {
	text := v.Relay + " (" + v.Go + " " + runtime.GOOS + "/" + runtime.GOARCH
	if v.Caddy != "" {
		text += ", Caddy " + v.Caddy
	}
	if v.CaddyL4 != "" {
		text += ", caddy-l4 " + v.CaddyL4
	}
	return text + ")"
}
