package listen

import (
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Address normalises hosts, and rejects port 0 and unknown names.
func TestAddress(t *testing.T) {
	relaytest.NoLeaks(t)
	for host, want := range map[string]string{
		"":                 "[::]:80",
		"::":               "[::]:80",
		"0.0.0.0":          "0.0.0.0:80",
		"127.0.0.1":        "127.0.0.1:80",
		"::ffff:127.0.0.1": "127.0.0.1:80",
		"::1":              "[::1]:80",
		"localhost":        "127.0.0.1:80",
	} {
		if got := address(t, host, 80).String(); got != want {
			t.Errorf("Address(%q) is %s, want %s", host, got, want)
		}
		if _, err := Address(host, 0); err == nil || !strings.Contains(err.Error(), "a port from 1 to 65535 is needed") {
			t.Errorf("Address(%q) with port 0: %v", host, err)
		}
	}
	if _, err := Address("no.such.host.invalid", 80); err == nil {
		t.Error("no error for an unknown host name")
	}
}
