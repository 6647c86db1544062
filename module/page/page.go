package page

import (
	"context"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/async-relay/caddy-relay/module/yamlfile"
)

// Handler serves the live page. It is embedded in the Caddy module, which must be
// registered in its own package for its documentation to be found.
type Handler struct {
	// Leaves out all actions. The requests that change something do not exist then.
	// Default: false.
	ReadOnly bool `json:"read_only,omitempty"`

	// The YAML file of async-relay that the config was made from. The requests of
	// async-relay's API show and edit it. The config adapter async-relay writes the
	// path. Default: none, so the settings cannot be edited in the page.
	ConfigFile string `json:"config_file,omitempty"`

	// Identifies the content of config_file that the config was made from. The
	// config adapter async-relay writes it. If the file has other content, the
	// settings cannot be edited until it is loaded.
	ConfigHash string `json:"config_hash,omitempty"`

	relays   Relays
	original Original
	files    *yamlfile.Files
	file     *yamlfile.Page // nil: there is no ConfigFile

	hub   *hub            // held from Provision to Cleanup; nil if Provision failed before
	paths *http.ServeMux  // of the routes
	ended <-chan struct{} // closed when the server or the config ends; streams end then
	end   func()          // closes ended
}

// New returns a handler that shows these relays and edits these files.
func New(relays Relays, original Original, files *yamlfile.Files) Handler {
	return Handler{relays: relays, original: original, files: files}
}

// Provision implements caddy.Provisioner.
func (p *Handler) Provision(ctx caddy.Context) error {
	ended, end := context.WithCancel(ctx)
	p.ended, p.end = ended.Done(), end
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(end) // at exit, Caddy waits for all responses before it ends the config
	}
	var err error
	if p.hub, err = loadHub(p.relays); err != nil {
		end()
		return err
	}
	if p.ConfigFile != "" {
		if p.file, err = p.files.Page(ctx, p.ConfigFile, p.ConfigHash); err != nil {
			end()
			return err
		}
	}
	p.paths = newPaths(p.routes(), p.ReadOnly)
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (p *Handler) Cleanup() error {
	if p.end != nil {
		p.end()
	}
	if p.hub != nil {
		p.hub.release()
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (p *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if path := originalPath(r); (r.URL.Path == "" || r.URL.Path == "/") && !strings.HasSuffix(path, "/") {
		return redirectToDirectory(w, path) // the stripped prefix did not end in a slash
	}
	if err := checkOrigin(r); err != nil {
		return writeError(w, errForbidden(err))
	}
	setHeaders(w.Header())
	if _, pattern := p.paths.Handler(r); pattern == "" {
		return writeError(w, p.errNoRoute(r))
	}
	p.paths.ServeHTTP(w, r)
	return nil
}

// originalPath returns the path of a request before the site has changed it.
func originalPath(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.URL.EscapedPath()
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return path
}

// redirectToDirectory adds a slash to the path of the original request, because
// the URLs of the page are relative to it.
func redirectToDirectory(w http.ResponseWriter, path string) error {
	// Relative to the last segment, so that it cannot name another host. Not by
	// http.Redirect, which would resolve it against the stripped path.
	w.Header().Set("Location", "./"+path[strings.LastIndexByte(path, '/')+1:]+"/")
	w.WriteHeader(http.StatusPermanentRedirect)
	return nil
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler. Syntax:
//
//	relay_page [<matcher>] [read_only]
func (p *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	for d.NextArg() {
		switch {
		case d.Val() != "read_only":
			return d.Errf("unknown argument %q, the only one is read_only", d.Val())
		case p.ReadOnly:
			return d.Err("duplicate argument read_only")
		}
		p.ReadOnly = true
	}
	if d.NextBlock(0) {
		return d.Errf("relay_page has no block, got %q", d.Val())
	}
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
