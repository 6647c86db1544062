package caddyfile

import (
	"encoding/json"
	"flag"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/caddyserver/caddy/v2"
)

var update = flag.Bool("update", false, "write the current results to the golden files")

// separator is the line between input and expected result in a .caddytest file.
const separator = "\n----------\n"

func durationPtr(d time.Duration) *caddy.Duration { return (*caddy.Duration)(&d) }

func intPtr(n int) *int { return &n }

func indent(t *testing.T, v any) string {
	t.Helper()
	out, err := json.MarshalIndent(v, "", "\t")
	relaytest.Check(t, err)
	return string(out) + "\n"
}
