package asyncrelay

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// newAdapter returns an adapter whose hashes take no time.
func newAdapter() *Adapter {
	return &Adapter{hash: func(password []byte) ([]byte, error) {
		return fmt.Appendf(nil, "$hash-of-%d-bytes", len(password)), nil
	}}
}

// webServerConfig is the HTTP server that the adapter writes for web_ui.
type webServerConfig struct {
	Listen    []string
	AutoHTTPS struct{ Disable bool } `json:"automatic_https"`
	Protocols []string
	Routes    []struct {
		Match  []struct{ Host []string }
		Handle []webHandler
	}
}

type webHandler struct {
	Handler    string
	ConfigFile string `json:"config_file"`
	ConfigHash string `json:"config_hash"`

	Status  int `json:"status_code"`
	Headers map[string][]string
	Body    string

	Providers *struct {
		Basic struct {
			Hash     struct{ Algorithm string }
			Accounts []struct{ Username, Password string }
			Cache    *struct{} `json:"hash_cache"`
		} `json:"http_basic"`
	}
}

// checkWeb compares the HTTP app with the web_ui that async-relay reads.
func checkWeb(t *testing.T, out []byte, want corpusWeb) {
	t.Helper()
	http := decodeWhole(t, out).Apps.HTTP
	if !want.Enabled {
		if http != nil {
			t.Errorf("an HTTP app for a page that is not enabled: %s", out)
		}
		return
	}
	if http == nil || len(http.Servers) != 1 {
		t.Fatalf("want one HTTP server: %s", out)
	}
	server := http.Servers["web_ui"]
	if listen := fmt.Sprintf("%s:%d", want.Address, want.Port); !slices.Equal(server.Listen, []string{listen}) || !server.AutoHTTPS.Disable {
		t.Errorf("listens on %v (%+v), want %s without TLS", server.Listen, server.AutoHTTPS, listen)
	}
	first := server.Routes[0].Handle[0]
	if !want.AuthEnabled {
		if first.Handler != "relay_page" || len(server.Routes[0].Match) != 1 || !slices.Contains(server.Routes[0].Match[0].Host, want.Address) {
			t.Errorf("first route %+v", server.Routes[0])
		}
		return
	}
	if len(server.Routes) != 1 || first.Handler != "authentication" || len(first.Providers.Basic.Accounts) != 1 || first.Providers.Basic.Cache == nil {
		t.Fatalf("routes %+v", server.Routes)
	}
	account := first.Providers.Basic.Accounts[0]
	if account.Username != textOf(want.Username) || account.Password != fmt.Sprintf("$hash-of-%d-bytes", len(textOf(want.Password))) {
		t.Errorf("account %+v", account)
	}
}

const webServices = "services: [{name: a, listen: {address: 127.0.0.1, port: 1}, backends: [\"x:80\"]}]\nweb_ui: "

func TestWebAddresses(t *testing.T) {
	const reachable = "web_ui.listen_address: must be a loopback address"
	for _, test := range []struct{ web, problem string }{
		{"{enabled: true, listen_address: localhost}", ""},
		{"{enabled: true, listen_address: LocalHost}", ""},
		{"{enabled: true, listen_address: 127.8.9.10}", ""},
		{"{enabled: true, listen_address: \"::1\"}", ""},
		{"{enabled: true, listen_address: \"::ffff:127.0.0.1\"}", ""},
		{"{enabled: true, listen_address: \"::\"}", reachable},
		{"{enabled: true, listen_address: 10.0.0.1}", reachable},
		{"{enabled: true, listen_address: localhost.example}", reachable},
		{"{enabled: true, listen_address: 0.0.0.0, auth: {enabled: false, username: u, password: p}}", reachable},
		{"{enabled: false, listen_address: 0.0.0.0}", ""},
		{"{enabled: true, listen_address: 0.0.0.0, auth: {enabled: true, username: u, password: p}}", ""},
		{"{enabled: true, auth: {enabled: true, username: \"a:b\", password: p}}", "web_ui.auth.username: must not contain a colon"},
		{"{enabled: true, auth: {enabled: true, username: u, password: " + strings.Repeat("p", 73) + "}}", "web_ui.auth.password: must be at most 72 bytes, got 73"},
		{"{enabled: true, auth: {enabled: true, username: u, password: [sesame]}}", "web_ui.auth.password: must be text, because auth is enabled, got a list"},
	} {
		_, _, err := newAdapter().Adapt([]byte(webServices+test.web), nil)
		var problems Problems
		switch {
		case test.problem == "" && err != nil:
			t.Errorf("%s: %v", test.web, err)
		case test.problem == "":
		case !errors.As(err, &problems) || len(problems) != 1 || !strings.HasPrefix(problems[0].String(), "line 2: "+test.problem):
			t.Errorf("%s: %v, want %q", test.web, err, test.problem)
		}
	}
}

// The password is in no output, and its hash is the one of Caddy's module.
func TestWebPassword(t *testing.T) {
	body := []byte(webServices + "{enabled: true, auth: {enabled: true, username: \"{env.HOME}\", password: sesame}}")
	adapter := new(Adapter)
	out, _, err := adapter.Adapt(body, nil)
	relaytest.Check(t, err)
	if bytes.Contains(out, []byte("sesame")) {
		t.Errorf("the password is in %s", out)
	}
	account := decodeWhole(t, out).Apps.HTTP.Servers["web_ui"].Routes[0].Handle[0].Providers.Basic.Accounts[0]
	if ok, err := (caddyauth.BcryptHash{}).Compare([]byte(account.Password), []byte("sesame")); !ok || err != nil {
		t.Errorf("the hash %q does not match: %v", account.Password, err)
	}
	if account.Username != `\{env.HOME\}` {
		t.Errorf("the user name %q would be resolved", account.Username)
	}
	// Otherwise every look at the file would seem to be a change of the settings.
	if again, _, err := adapter.Adapt(append(body, "\n# comment"...), nil); err != nil || !bytes.Equal(out, again) {
		t.Errorf("another hash for the same password: %s and %s, %v", out, again, err)
	}
}

// Equal passwords of different adapters have different salts, so the memory of
// hashes needs no secret.
func TestWebHashesAreRemembered(t *testing.T) {
	calls := 0
	adapter := &Adapter{hash: func(password []byte) ([]byte, error) { calls++; return fmt.Appendf(nil, "$%d", calls), nil }}
	hash := func(password string) string {
		h, err := adapter.hashPassword(password)
		relaytest.Check(t, err)
		return h
	}
	if a, b, c := hash("a"), hash("b"), hash("a"); a != "$1" || b != "$2" || c != "$1" {
		t.Errorf("hashes %s %s %s", a, b, c)
	}
	adapter.hash = func([]byte) ([]byte, error) { return nil, errors.New("no entropy") }
	body := webServices + "{enabled: true, auth: {enabled: true, username: u, password: other}}"
	if _, _, err := adapter.Adapt([]byte(body), nil); err == nil || err.Error() != "web_ui.auth.password: hash it: no entropy" {
		t.Errorf("%v", err)
	}
}
