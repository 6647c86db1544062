package asyncrelay

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

// webServer is the name of the HTTP server of the page.
const webServer = "web_ui"

// webGrace limits how long a request of the page delays the exit.
const webGrace = "5s"

// The part of Caddy's JSON that the adapter writes for web_ui.
type (
	httpJSON struct {
		GracePeriod string                    `json:"grace_period"`
		Servers     map[string]httpServerJSON `json:"servers"`
	}
	httpServerJSON struct {
		Listen    []string        `json:"listen"`
		Routes    []httpRouteJSON `json:"routes"`
		AutoHTTPS autoHTTPSJSON   `json:"automatic_https"`
		Protocols []string        `json:"protocols"`
	}
	autoHTTPSJSON struct {
		Disable bool `json:"disable"`
	}
	httpRouteJSON struct {
		Match  []hostMatchJSON `json:"match,omitempty"`
		Handle []any           `json:"handle"`
	}
	hostMatchJSON struct {
		Host []string `json:"host"`
	}
	pageJSON struct {
		Handler    string `json:"handler"`
		ConfigFile string `json:"config_file,omitempty"`
		ConfigHash string `json:"config_hash,omitempty"`
	}
	staticResponseJSON struct {
		Handler string              `json:"handler"`
		Status  int                 `json:"status_code"`
		Headers map[string][]string `json:"headers"`
		Body    string              `json:"body"`
	}
	authJSON struct {
		Handler   string            `json:"handler"`
		Providers authProvidersJSON `json:"providers"`
	}
	authProvidersJSON struct {
		Basic basicAuthJSON `json:"http_basic"`
	}
	basicAuthJSON struct {
		Hash     hashJSON      `json:"hash"`
		Accounts []accountJSON `json:"accounts"`
		Cache    struct{}      `json:"hash_cache"` // the page makes many requests, and a hash takes a second
	}
	hashJSON struct {
		Algorithm string `json:"algorithm"`
	}
	accountJSON struct {
		Username string `json:"username"`
		Password string `json:"password"` // its hash
	}
)

// emitWeb returns the HTTP app with the page. It has one server on one address,
// without TLS and redirects, as in async-relay.
func (a *Adapter) emitWeb(web *webUI, page pageJSON) (*httpJSON, error) {
	server := httpServerJSON{
		Listen:    []string{web.listen.String()},
		AutoHTTPS: autoHTTPSJSON{Disable: true},
		Protocols: []string{"h1"},
	}
	page.Handler = "relay_page"
	if web.auth == nil {
		server.Routes = localRoutes(web.listen, page)
	} else {
		hash, err := a.hashWebPassword(web.auth)
		if err != nil {
			return nil, err
		}
		basic := basicAuthJSON{
			Hash:     hashJSON{"bcrypt"},
			Accounts: []accountJSON{{braceEscaper.Replace(web.auth.username), hash}},
		}
		server.Routes = []httpRouteJSON{{Handle: []any{authJSON{"authentication", authProvidersJSON{basic}}, page}}}
	}
	return &httpJSON{GracePeriod: webGrace, Servers: map[string]httpServerJSON{webServer: server}}, nil
}

// localNames returns the names of this machine under which a page without a password
// is served. Otherwise a web site could have its own name resolve to 127.0.0.1 and so
// use the page from the browser of a visitor.
func localNames(listen listenAddress) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if !slices.Contains(hosts, listen.host) {
		hosts = append(hosts, listen.host)
	}
	return hosts
}

// localRoutes returns the routes of a page without a password.
func localRoutes(listen listenAddress, page pageJSON) []httpRouteJSON {
	return []httpRouteJSON{
		{Match: []hostMatchJSON{{localNames(listen)}}, Handle: []any{page}},
		{Handle: []any{staticResponseJSON{
			Handler: "static_response",
			Status:  http.StatusForbidden,
			Headers: map[string][]string{"Content-Type": {"application/json"}},
			Body:    `{"error":"without web_ui.auth the page is served only under a name of this machine, such as localhost"}` + "\n",
		}}},
	}
}

// hashWebPassword returns the hash of a login's password.
func (a *Adapter) hashWebPassword(auth *webAuth) (string, error) {
	hash, err := a.hashPassword(auth.password)
	if err != nil {
		return "", fmt.Errorf("web_ui.auth.password: hash it: %w", err)
	}
	return hash, nil
}

// hashPassword returns the hash of a password. Equal passwords have equal hashes,
// so that a file without changes becomes a config without changes. The salt is
// random: it differs in each process.
func (a *Adapter) hashPassword(password string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hashes == nil {
		_, _ = rand.Read(a.key[:]) // never fails
		a.hashes = make(map[[32]byte]string)
	}
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write([]byte(password))
	id := [32]byte(mac.Sum(nil))
	if hash, ok := a.hashes[id]; ok {
		return hash, nil
	}
	hashed := a.hash
	if hashed == nil {
		hashed = caddyauth.BcryptHash{}.Hash
	}
	hash, err := hashed([]byte(password))
	if err != nil {
		return "", err
	}
	a.hashes[id] = string(hash)
	return string(hash), nil
}
