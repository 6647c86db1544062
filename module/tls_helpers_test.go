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

// afterStart is a handler that orders clients after the start of Caddy, for the
// race detector. Caddy still writes to its TLS app while layer4 serves already;
// the detector does not see that the client came later.
type afterStart struct{}

// started counts the starts of Caddy.
var started atomic.Int64

func init() { caddy.RegisterModule(afterStart{}) }

func (afterStart) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.relay_test_after_start", New: func() caddy.Module { return new(afterStart) }}
}

func (afterStart) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (afterStart) Handle(cx *layer4.Connection, next layer4.Handler) error {
	_ = started.Load() // happens after the writes before the latest change
	return next.Handle(cx)
}

// startBehindTLS starts a relay behind Caddy's TLS termination.
func startBehindTLS(t *testing.T, at, relay string) *server {
	t.Helper()
	cert, key := certificate(t)
	defer started.Add(1)
	return startWithApps(t, fmt.Sprintf(`"tls":{"certificates":{"load_files":[{"certificate":%q,"key":%q}]}}`, cert, key), "",
		fmt.Sprintf("TCP/%s {\n route {\n relay_test_after_start\n tls\n relay %s\n }\n }", at, relay))
}

// tlsClient returns a TLS client on conn that accepts any certificate. It does the
// handshake with the first byte.
func tlsClient(conn net.Conn) *tls.Conn {
	return tls.Client(conn, &tls.Config{ServerName: "relay.test", InsecureSkipVerify: true})
}
