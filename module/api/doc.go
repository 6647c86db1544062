// Package api holds the responses of the relay's admin API as plain data.
//
// The admin API encodes these types and the commands of `caddy relay` decode
// them, so both agree on every field. The package imports nothing of Caddy and
// nothing of the relay.
//
// The package promises no API: its types may change with any release. The JSON
// that they stand for is documented and stable.
package api
