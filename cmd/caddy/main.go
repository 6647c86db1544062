// Command caddy is Caddy with its standard modules, caddy-l4 and the relay. It
// is the same program that `xcaddy build --with` makes, built with go build.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/async-relay/caddy-relay"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddycmd.Main()
}
