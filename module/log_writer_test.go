package module_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
)

// The lines pass through the queue to the other output, also after a reload.
func TestLogWriterToAFile(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	at, path := freeAddr(t), filepath.Join(t.TempDir(), "access")
	config := block("relay+tcp/"+at, backend+" {\n access_log tcp\n }")
	s := startWith(t, fmt.Sprintf("log access {\n include %s\n output relay_queue file %q {\n roll_disabled\n }\n format json\n }\n", accessLogger, path), config)
	for i := range 3 {
		conn := dial(t, "tcp", at)
		ask(t, conn, "x")
		conn.Close()
		relaytest.Eventually(t, "the line", func() bool { return len(logged(t, path)) == i+1 })
		s.mustReload(config)
	}
}

func TestLogWriterInACaddyfile(t *testing.T) {
	for text, want := range map[string]string{
		"relay_queue":                     "{}",
		"relay_queue stderr":              `{"writer":{"output":"stderr"}}`,
		"relay_queue stdout":              `{"writer":{"output":"stdout"}}`,
		"relay_queue net localhost:50000": `{"writer":{"address":"localhost:50000","output":"net"}}`,
		"relay_queue stderr more":         "",
		"relay_queue nowhere":             "",
	} {
		var w module.LogWriter
		err := w.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
		if (err != nil) != (want == "") {
			t.Errorf("%s: %v", text, err)
		}
		if got := string(caddyconfig.JSON(w, nil)); err == nil && got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}
