package module

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	config "github.com/async-relay/caddy-relay/caddyfile"
)

// parseAppOption parses the global option relay, which configures the app.
func parseAppOption(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		return nil, d.Err("the global option relay is given twice")
	}
	var app config.AppConfig
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "relay", Value: caddyconfig.JSON(app, nil)}, nil
}
