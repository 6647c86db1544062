package asyncrelay

import (
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/caddyserver/caddy/v2"
)

// TestHookTextIsLiteral uses text that would be a placeholder in Caddy's JSON.
func TestHookTextIsLiteral(t *testing.T) {
	const body = `services: [{name: a, listen: {address: '::', port: 1}, backends: ['a:1'],
		event_hook: {command: '{env.HOME}', args: ['{"a": {}}', '\{', '}\'], events: [backend_failed]}}]`
	out, _, err := newAdapter().Adapt([]byte(body), nil)
	relaytest.Check(t, err)
	c, err := decodeWhole(t, out).Apps.Layer4.Servers["a"].Routes[0].Handle[0].Resolved(caddy.NewReplacer())
	relaytest.Check(t, err)
	if hook := c.EventHook; hook.Command != "{env.HOME}" || strings.Join(hook.Args, " ") != `{"a": {}} \{ }\` {
		t.Errorf("got command %s with arguments %q", hook.Command, hook.Args)
	}
}
