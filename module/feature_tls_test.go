package module_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
)

// afterStart is a handler that clients pass once Caddy has started. Its TLS app
// is still written to while layer4 serves already, which the race detector
// takes for a race: it does not see that a client came later.
type afterStart struct{}

// started counts the starts that clients have to come after.
var started atomic.Int64

func init() { caddy.RegisterModule(afterStart{}) }

func (afterStart) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.relay_test_after_start", New: func() caddy.Module { return new(afterStart) }}
}

func (afterStart) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (afterStart) Handle(cx *layer4.Connection, next layer4.Handler) error {
	_ = started.Load() // what came before its latest change is seen from here on
	return next.Handle(cx)
}

// startBehindTLS relays on the given settings what Caddy has decrypted.
func startBehindTLS(t *testing.T, at, relay string) *server {
	t.Helper()
	cert, key := certificate(t)
	defer started.Add(1)
	return startBeside(t, fmt.Sprintf(`"tls":{"certificates":{"load_files":[{"certificate":%q,"key":%q}]}}`, cert, key), "",
		fmt.Sprintf("TCP/%s {\n route {\n relay_test_after_start\n tls\n relay %s\n }\n }", at, relay))
}

// trusting makes a client of TLS, which shakes hands at the first byte.
func trusting(conn net.Conn) *tls.Conn {
	return tls.Client(conn, &tls.Config{ServerName: "relay.test", InsecureSkipVerify: true})
}
