// Package command holds the commands that the relay adds to Caddy:
// `caddy relay`, which queries the admin API of a running Caddy and prints the
// answers, and `caddy async-relay`, which runs a configuration file of
// async-relay.
//
// The package promises no API: its functions may change with any release. The
// commands themselves are documented and stable.
package command
